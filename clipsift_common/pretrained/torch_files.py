"""Files of torch's, read without trusting them: nothing is unpickled, and content is compared with its checksums."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch

_PIECE = 1 << 24  # bytes read at a time


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, on the CPU.

    Raises anything that torch raises about damaged files, and :class:`zipfile.BadZipFile` for another checksum.
    """
    check_archive(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def check_archive(path: Path) -> None:
    """Compare the records of an archive with their checksums, which torch writes and does not look at.

    Files of before torch 1.6 are no archives and have none, and 0 stands for one that was not computed.
    Raises :class:`zipfile.BadZipFile`.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for record in archive.infolist():
            if record.CRC:
                with archive.open(record) as content:
                    while content.read(_PIECE):
                        pass
