"""Fixtures of the selection's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from helpers.bundle import Bundle


@pytest.fixture(scope="session")
def bundle(golden: Path) -> Bundle:
    """Reference inputs and outputs of the selection methods."""
    return Bundle(golden / "selection")


@pytest.fixture
def threads() -> Iterator[None]:
    """The test may change torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
