"""Tars packed by Python's own modules, as other programs leave them."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import lzma
from collections.abc import Callable
from pathlib import Path

HAS_ZSTD = importlib.util.find_spec("backports") is not None and importlib.util.find_spec("backports.zstd") is not None
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".TAR.GZ": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}
OPEN: dict[str, Callable] = {".tar.gz": gzip.open, ".tar.xz": lzma.open}
if HAS_ZSTD:
    from backports import zstd

    def with_checksum(data: bytes) -> bytes:
        """As the program ``zstd`` does."""
        return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})

    PACK |= dict.fromkeys((".tar.zst", ".tzst"), with_checksum)
    OPEN |= {".tar.zst": zstd.open}


def pack(folder: Path, suffix: str) -> None:
    """Replace the tars of a folder by packed ones."""
    for tar in sorted(folder.glob("*.tar")):
        Path(str(tar).removesuffix(".tar") + suffix).write_bytes(PACK[suffix](tar.read_bytes()))
        tar.unlink()
