"""Fixtures shared by all tests. Reference material lies beside a developer's checkout; tests skip without it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from clipsift_common.pretrained.hub import use_cache_if_unreachable

_OFFLINE = constants.HF_HUB_OFFLINE
SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared_folder(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no {name} reference material beside this checkout")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder with reference inputs and outputs of the original authors' code."""
    return _shared_folder("golden")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real images and captions."""
    return _shared_folder("data")


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 64 kB, or of the size given as its parameter, with an empty ``folder`` in it; only root can
    mount one."""
    place = tmp_path / "small_disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '64k')}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a small disk")
    (place / "folder").mkdir()
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(autouse=True)
def _hub_as_it_was() -> Iterator[None]:
    """A test that found the hub out of reach leaves nothing of it to the next."""
    constants.HF_HUB_OFFLINE = _OFFLINE
    use_cache_if_unreachable.cache_clear()
    yield
    constants.HF_HUB_OFFLINE = _OFFLINE
