"""The 128-bit name of a sample: 32 hex characters in text, a ``u8,u8`` pair (high, low) in arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from common.errors import ClipsiftError

UID_DTYPE = np.dtype("u8,u8")  # fields f0 (high 64 bits) and f1 (low 64 bits), 16 bytes: DataComp's subset files
UID_WIDTH = 32  # hex characters

_HALF = np.dtype(">u8")


def parse_uids(texts: Sequence[str]) -> np.ndarray:
    """Hex strings of at most 32 characters to an ``(n,)`` array of :data:`UID_DTYPE`.

    Shorter strings have lost leading zeros and get them back (DataComp's own tools disagree there: some cut the
    string at 16 characters, the resharder divides the number; padding is what both mean).

    Raises:
        ClipsiftError: for an empty, longer or non-hex string, naming its row.
    """
    if not len(texts):
        return np.empty(0, UID_DTYPE)
    padded = [text.rjust(UID_WIDTH, "0") for text in texts]
    try:
        data = bytes.fromhex("".join(padded))
        valid = len(data) == 16 * len(padded) and all(len(text) == UID_WIDTH for text in padded) and all(texts)
    except ValueError:
        valid = False
    if not valid:
        row, text = next((row, text) for row, text in enumerate(texts) if not is_uid(text))
        raise ClipsiftError(f"row {row}: uid {text!r} is not {UID_WIDTH} hex characters")
    halves = np.frombuffer(data, _HALF).reshape(-1, 2).astype(np.uint64)
    return halves.view(UID_DTYPE).reshape(-1)


def is_uid(text: object) -> bool:
    """Whether ``text`` is a hex string of 1 to 32 characters."""
    if not isinstance(text, str) or not 0 < len(text) <= UID_WIDTH:
        return False
    return all(character in "0123456789abcdefABCDEF" for character in text)


def format_uids(uids: np.ndarray) -> list[str]:
    """An array of :data:`UID_DTYPE` to 32-character lower-case hex strings."""
    text = sort_key(uids).tobytes().hex()
    return [text[start : start + UID_WIDTH] for start in range(0, len(text), UID_WIDTH)]


def derive_uid(shard: str, key: str) -> str:
    """A stable uid for a sample that came without one: a hash of its shard's name and its key."""
    return hashlib.md5(f"{shard}/{key}".encode(), usedforsecurity=False).hexdigest()


def sort_key(uids: np.ndarray) -> np.ndarray:
    """``(n,)`` fixed-width byte strings that compare as the uids do (numpy orders them far faster than pairs)."""
    halves = np.ascontiguousarray(uids).view(np.uint64).reshape(-1, 2).astype(_HALF)
    return halves.view("S16").reshape(-1)


def sort_uids(uids: np.ndarray) -> np.ndarray:
    """``uids`` in lexicographic order of the (high, low) pair."""
    return uids[np.lexsort((uids["f1"], uids["f0"]))]
