from __future__ import annotations

from pathlib import Path

import pytest

from helpers.bundle import Bundle


@pytest.fixture(scope="session")
def bundle(golden: Path) -> Bundle:
    """Reference inputs and outputs of the selection methods."""
    return Bundle(golden / "selection")
