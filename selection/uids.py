"""The 128-bit name of a sample: 32 hex characters in text, a ``u8,u8`` pair (high, low) in arrays."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipsift_common.errors import ClipsiftError

UID_DTYPE = np.dtype("u8,u8")  # fields f0 (high 64 bits) and f1 (low 64 bits), 16 bytes: DataComp's subset files
UID_WIDTH = 32  # hex characters

_UID = re.compile("[0-9a-fA-F]{1,32}")
_HALF = np.dtype(">u8")
_PIECE = 1 << 22  # uids looked at at a time


def parse_uids(texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hex strings of at most 32 characters to an ``(n,)`` array of :data:`UID_DTYPE`.

    A column of a table is parsed where it lies, about a hundred times faster than a list of Python's strings. Shorter
    strings have lost leading zeros and get them back (DataComp's own tools disagree there: some cut the string at 16
    characters, the resharder divides the number; padding is what both mean).

    Raises:
        ClipsiftError: for an empty, longer or non-hex string, naming its row; for a column of numbers.
    """
    if not isinstance(texts, pa.Array | pa.ChunkedArray):
        texts = _string_array(texts)
    parts = texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]
    parsed, start = [], 0
    for part in parts:
        parsed.append(_parse_array(part, start))
        start += len(part)
    return parsed[0] if len(parsed) == 1 else np.concatenate([np.empty(0, UID_DTYPE), *parsed])


def _string_array(texts: Sequence[str]) -> pa.Array:
    try:
        return pa.array(texts, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        raise _no_uid(texts, 0) from None


def _parse_array(array: pa.Array, first_row: int) -> np.ndarray:
    if array.type != pa.string():
        array = _as_strings(array, first_row)
    lengths = pc.min_max(pc.binary_length(array)).as_py()
    if array.null_count or (len(array) and (lengths["min"] == 0 or lengths["max"] > UID_WIDTH)):
        raise _no_uid(array.to_pylist(), first_row)
    if len(array) and lengths["min"] < UID_WIDTH:
        array = pc.ascii_lpad(array, UID_WIDTH, "0")
    if not len(array):
        return np.empty(0, UID_DTYPE)
    _, offsets, characters = array.buffers()
    start = int(np.frombuffer(offsets, np.int32)[array.offset])
    try:
        data = binascii.unhexlify(memoryview(characters)[start : start + UID_WIDTH * len(array)])
    except ValueError:
        raise _no_uid(array.to_pylist(), first_row) from None
    return np.frombuffer(data, _HALF).astype(np.uint64).view(UID_DTYPE)


def _as_strings(array: pa.Array, first_row: int) -> pa.Array:
    """``array`` as strings. Numbers are refused: their decimal digits, read as hex, are other samples' uids."""
    if pa.types.is_primitive(array.type) or pa.types.is_decimal(array.type):
        raise ClipsiftError(
            f"uids are numbers ({array.type}), not {UID_WIDTH} hex characters; write each as text, in Python "
            'f"{uid:032x}"'
        )
    try:
        return array.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise _no_uid(array.to_pylist(), first_row) from None


def _no_uid(texts: Sequence[object], first_row: int) -> ClipsiftError:
    row, text = next((row, text) for row, text in enumerate(texts) if not is_uid(text))
    return ClipsiftError(f"row {first_row + row}: uid {text!r} is not {UID_WIDTH} hex characters; give each row one")


def is_uid(text: object) -> bool:
    """Whether ``text`` is a hex string of 1 to 32 characters."""
    return isinstance(text, str) and _UID.fullmatch(text) is not None


def format_uids(uids: np.ndarray) -> list[str]:
    """An array of :data:`UID_DTYPE` to 32-character lower-case hex strings."""
    text = sort_key(uids).tobytes().hex()
    return [text[start : start + UID_WIDTH] for start in range(0, len(text), UID_WIDTH)]


def uid_column(uids: np.ndarray) -> pa.StringArray:
    """Like :func:`format_uids`, as a column for a table, without making Python's strings."""
    text = binascii.hexlify(sort_key(uids).data)
    offsets = np.arange(0, len(text) + 1, UID_WIDTH).astype(np.int32)
    assert int(offsets[-1]) == len(text), "more uids than a column of 2 GiB holds"
    return pa.StringArray.from_buffers(len(uids), pa.py_buffer(offsets), pa.py_buffer(text))


def derive_uid(shard: str, key: str) -> str:
    """A stable uid for a sample that came without one: a hash of its shard's name and its key."""
    return hashlib.md5(f"{shard}/{key}".encode(errors="surrogateescape"), usedforsecurity=False).hexdigest()


def sort_key(uids: np.ndarray) -> np.ndarray:
    """``(n,)`` fixed-width byte strings that compare as the uids do (numpy orders them far faster than pairs)."""
    halves = np.ascontiguousarray(uids).view(np.uint64).reshape(-1, 2).astype(_HALF)
    return halves.view("S16").reshape(-1)


def sort_uids(uids: np.ndarray) -> np.ndarray:
    """``uids`` in lexicographic order of the (high, low) pair."""
    ordered = uids[np.argsort(uids["f0"], kind="stable")]  # of hashes, the high halves alone tell nearly all apart
    tied = ordered["f0"][1:] == ordered["f0"][:-1]
    if tied.any():
        rows = np.flatnonzero(np.r_[tied, False] | np.r_[False, tied])
        part = ordered[rows]
        ordered[rows] = part[np.lexsort((part["f1"], part["f0"]))]
    return ordered


def is_sorted(uids: np.ndarray) -> bool:
    """Whether ``uids`` are in lexicographic order; reads a memory-mapped array piece by piece."""
    for start in range(0, len(uids) - 1, _PIECE):
        high, low = (np.ascontiguousarray(uids[name][start : start + _PIECE + 1]) for name in ("f0", "f1"))
        if ((high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))).any():
            return False
    return True


def repeats(uids: np.ndarray) -> np.ndarray:
    """(n,) bool: rows whose uid an earlier row has."""
    order = np.lexsort((uids["f1"], uids["f0"]))  # stable: of equal ones the first row comes first
    ordered = uids[order]
    repeated = np.zeros(len(uids), bool)
    repeated[order[1:]] = ordered[1:] == ordered[:-1]
    return repeated


def search_uids(ordered: np.ndarray, uids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where ``uids`` (k,), in any order, lie in the sorted ``ordered`` (n,), which may be memory mapped.

    Returns:
        ``left`` and ``right``, (k,) int64 each: ``ordered[left[i] : right[i]]`` are those equal to ``uids[i]``.
    """
    by_high = np.argsort(uids["f0"], kind="stable")  # neighbours in the file are looked up one after the other
    wanted = uids[by_high]
    left = np.searchsorted(ordered["f0"], wanted["f0"], "left")
    right = np.searchsorted(ordered["f0"], wanted["f0"], "right")
    found = np.flatnonzero(right > left)
    low = np.ascontiguousarray(wanted["f1"][found])
    ends = [_search_low(ordered["f1"], low, left[found], right[found], side) for side in ("left", "right")]
    result = np.empty((2, len(uids)), np.int64)
    left[found], right[found] = ends
    result[:, by_high] = left, right
    return result[0], result[1]


def _search_low(halves: np.ndarray, wanted: np.ndarray, start: np.ndarray, stop: np.ndarray, side: str) -> np.ndarray:
    """(k,) insertion points of ``wanted`` in the sorted pieces ``halves[start:stop]``; every piece has an element."""
    start, stop = start.copy(), stop.copy()
    while (open_ := np.flatnonzero(start < stop)).size:
        middle = (start[open_] + stop[open_]) // 2
        values = halves[middle]
        before = values < wanted[open_] if side == "left" else values <= wanted[open_]
        start[open_] = np.where(before, middle + 1, start[open_])
        stop[open_] = np.where(before, stop[open_], middle)
    return start
