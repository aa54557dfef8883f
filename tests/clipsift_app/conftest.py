"""Fixtures of the program's tests."""

from __future__ import annotations

import pytest

from helpers.fake_run import FakeIndex, make_index


@pytest.fixture(scope="session")
def index() -> FakeIndex:
    """A made-up pool of 200 pairs; nobody changes it."""
    return make_index()
