"""Tars as a pool, a task or a trainer finds them, written by Python's own ``tarfile``."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

Members = list[tuple[str, bytes]]


def write_tar(path: Path, members: Members, format: int = tarfile.DEFAULT_FORMAT) -> Path:
    """A tar of (name, content) members in their order; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
