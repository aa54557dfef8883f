"""Arrays inside ``.npz`` files, mapped instead of loaded where that can be done."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import IO

import fsspec
import numpy as np

from clipsift_common.errors import ClipsiftError, first_line

MAPPED_FROM = 1 << 22  # bytes: a smaller array is loaded, since a mapped one keeps its file open
_PIECE = 1 << 24  # bytes checked at a time
_LOCAL_HEADER = 30  # bytes of a zip member's own header, before its name and extra field


def read_array(path: str, key: str) -> np.ndarray:
    """The array ``key`` of an ``.npz``, its checksum verified.

    A large one in a local file that is not compressed (DataComp's and ours are not) is mapped into memory,
    copy-on-write: the operating system may drop its pages again, so half a million rows do not count against the
    process. Otherwise it is loaded. Nothing is unpickled.

    Raises:
        ClipsiftError: for a file that is no npz, is damaged or has no such array.
    """
    try:
        with fsspec.open(path, "rb") as handle, zipfile.ZipFile(handle) as archive:
            member = _member(path, archive, key)
            is_large = member.file_size >= MAPPED_FROM
            if is_large and member.compress_type == zipfile.ZIP_STORED and Path(path).is_file():
                return _mapped(path, member)
            return np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ClipsiftError(f"{path}: features cannot be read ({first_line(error)}); get them again") from error


def checksums(path: str, keys: list[str]) -> list[tuple[int, int]]:
    """(CRC-32, bytes) of the arrays ``keys``, from the archive's table of contents: no array is read.

    Raises :class:`ClipsiftError` as :func:`read_array` does.
    """
    try:
        with fsspec.open(path, "rb") as handle, zipfile.ZipFile(handle) as archive:
            members = [_member(path, archive, key) for key in keys]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ClipsiftError(f"{path}: features cannot be read ({first_line(error)}); get them again") from error
    return [(member.CRC, member.file_size) for member in members]


def _member(path: str, archive: zipfile.ZipFile, key: str) -> zipfile.ZipInfo:
    names = [name.removesuffix(".npy") for name in archive.namelist()]
    if key not in names:
        raise ClipsiftError(f"{path}: has no array {key} (it has {', '.join(names) or 'none'}); give a name it has")
    return archive.getinfo(f"{key}.npy")


def _mapped(path: str, member: zipfile.ZipInfo) -> np.ndarray:
    with open(path, "rb") as handle:
        handle.seek(member.header_offset)
        header = handle.read(_LOCAL_HEADER)
        start = member.header_offset + _LOCAL_HEADER
        start += int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        handle.seek(start)
        _check(handle, member)
        handle.seek(start)
        shape, fortran, dtype = _array_header(handle)
        offset = handle.tell()
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    if offset + int(np.prod(shape)) * dtype.itemsize > start + member.file_size:
        raise ValueError(f"{member.filename} is shorter than its header says")
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "c", offset, shape, "F" if fortran else "C")


def _check(handle: IO[bytes], member: zipfile.ZipInfo) -> None:
    checksum, left = 0, member.file_size
    while left and (piece := handle.read(min(_PIECE, left))):
        checksum, left = zlib.crc32(piece, checksum), left - len(piece)
    if left or checksum != member.CRC:
        raise ValueError(f"{member.filename} has another checksum than it was written with")


def _array_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(handle)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(handle)
    return np.lib.format.read_array_header_2_0(handle)


def whole_array(data: bytes) -> np.ndarray:
    """The array of a whole ``.npy`` in memory, read-only; nothing is unpickled, and no more is made than is there.

    Raises ValueError for anything else.
    """
    handle = io.BytesIO(data)
    shape, fortran, dtype = _array_header(handle)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    start, count = handle.tell(), math.prod(shape)
    if count * dtype.itemsize != len(data) - start:
        raise ValueError(f"{len(data) - start} bytes are no {dtype} array of {shape}")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if fortran else "C")
