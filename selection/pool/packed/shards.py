"""Shards that are packed tars: which they are, what their names mean, and their unpacking within bounds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import IO

from fsspec.compression import compr

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.tars import BLOCK
from selection.pool.packed.parquet_images import AS_WRITTEN, write_tar
from selection.samples.fields import Fields

logger = logging.getLogger("clipsift")

UNPACKING = 2  # raised when the same packed file becomes another tar
_PARQUET = "parquet"
_KINDS = {  # the end of a name -> fsspec's word for the compression
    ".tar.gz": "gzip",
    ".tgz": "gzip",
    ".tar.zst": "zstd",
    ".tar.zstd": "zstd",
    ".tzst": "zstd",
    ".tar.bz2": "bz2",
    ".tbz2": "bz2",
    ".tar.xz": "xz",
    ".txz": "xz",
}
SHARD_SUFFIXES = (".tar", *_KINDS)  # of two forms of one shard in a folder the first of these is read
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_KINDS |= dict.fromkeys(PARQUET_SUFFIXES, _PARQUET)  # those with pictures
_PACKED = tuple(_KINDS)
_COMMANDS = {"gzip": "gunzip", "zstd": "zstd -d --rm", "bz2": "bunzip2", "xz": "unxz"}
_INSTALL = {"zstd": "pip install 'clipsift[zstd]'"} | dict.fromkeys(("bz2", "xz"), "Python was built without it")
_BEHIND_THE_END = ("Not a gzipped file", "Unable to decompress Zstandard data: Unknown frame")  # garbage, no damage

# Pictures hardly shrink: tars of them grow by a few percent, tars of tiny ones, which are mostly padding, 50 times.
MOST_TIMES = 200
FLOOR = 64 << 20  # bytes that any shard may unpack to
_PIECE = 1 << 16  # bytes at a time: what a decoder had in hand when it met damage is lost


def is_packed(url: str) -> bool:
    """Whether a shard must be unpacked before it can be read; what a command prints is a tar as it is."""
    return url.lower().endswith(_PACKED) and not url.startswith("pipe:")


def is_parquet(url: str) -> bool:
    """Whether a shard is a parquet file with pictures."""
    return _kind(url) == _PARQUET and not url.startswith("pipe:")


def fields_in_tar(url: str, fields: Fields) -> Fields:
    """Where the parts of a sample are in the tar that a shard is, or becomes; ``fields`` are the pool's."""
    return AS_WRITTEN if is_parquet(url) else fields


def unpack_command(url: str) -> str:
    """What a user types to have the tar itself; "" for what is no packed tar."""
    kind = _kind(url)
    return f"{_COMMANDS[kind]} {url}" if kind in _COMMANDS else ""


def unpack(
    source: IO[bytes], url: str, size: int, part: IO[bytes], make_room: Callable[[int], None], fields: Fields
) -> None:
    """Write the tar in ``source`` to ``part``; of what is cut or damaged, what can be read.

    Args:
        source: the open packed file of ``size`` bytes.
        url: what errors call it; its end tells how it is packed.
        part: an empty file, open for appending.
        make_room: is called with the size that ``part`` is about to have.
        fields: which columns of a parquet make a sample.

    Raises:
        ClipsiftError: when nothing can be unpacked, far more than pictures can be, or Python lacks what unpacks it.
    """
    most, done, kind = max(FLOOR, MOST_TIMES * size), 0, _kind(url)

    def write(data: bytes) -> None:
        nonlocal done
        done += len(data)
        if done > most:
            text = f"unpacks to more than {most / 1e9:.2f} GB, {MOST_TIMES} times its size, as no pictures do"
            raise ClipsiftError(f"{url}: {text}; move it out of the pool, or unpack it yourself")
        make_room(done)
        part.write(data)

    if kind == _PARQUET:
        write_tar(source, url, fields, write)
    else:
        _decompress(source, url, str(kind), part, write)


def _decompress(source: IO[bytes], url: str, kind: str, part: IO[bytes], write: Callable[[bytes], None]) -> None:
    if kind not in compr:
        raise ClipsiftError(f"{url}: cannot be unpacked here; {_INSTALL[kind]}, or unpack it: {unpack_command(url)}")
    pieces, done, zeros = _Pieces(source, kind), 0, 0
    for piece in pieces:
        write(piece)
        done += len(piece)
        at_end = len(piece) - len(piece.rstrip(b"\0"))
        zeros = at_end if at_end < len(piece) else zeros + at_end
    if pieces.is_doubtful and not done:
        text = f"cannot be unpacked ({pieces.error}); get it again, or move it out of the pool"
        raise ClipsiftError(f"{url}: {text}")
    if pieces.error:
        logger.warning("%s: is cut or damaged (%s); what came before is used", url, pieces.error)
    if pieces.is_doubtful:  # without the mark that ends a tar it counts as truncated
        part.truncate(done - zeros // BLOCK * BLOCK)


class _Pieces:
    """What a packed file holds, piece by piece, as far as it can be unpacked.

    Attributes:
        error: why it ended early; empty when it did not.
        is_doubtful: whether what was given may be wrong, since a checksum did not fit.
    """

    def __init__(self, source: IO[bytes], kind: str) -> None:
        self._handle = compr[kind](source, mode="rb")
        self.error, self.is_doubtful = "", False

    def __iter__(self) -> Iterator[bytes]:
        has_begun = False
        try:
            while piece := self._handle.read1(_PIECE):
                has_begun = True
                yield piece
        except EOFError as error:
            self.error = first_line(error)
        except Exception as error:  # each library has its own, and neither needs to be installed
            self.error = first_line(error)
            self.is_doubtful = not (has_begun and self.error.startswith(_BEHIND_THE_END))


def _kind(url: str) -> str | None:
    return next((kind for suffix, kind in _KINDS.items() if url.lower().endswith(suffix)), None)
