"""Files as disks, networks and strangers leave them: bytes changed at random, by a seed, and what stays as it was."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from clipsift_common.errors import ClipsiftError

T = TypeVar("T")

_REMEDY = re.compile(r"\b(fetch|get|give|make|made|delete|save|take|mend|leave|say|lower|raise|write|choose|let|see)\b")


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.place), "w")


@dataclass(frozen=True)
class Mutation:
    """Changed ``data``, in words what was done, and the spans of ``data`` that are not as they were written."""

    what: str
    data: bytes
    spans: Sequence[tuple[int, int]]

    def touches(self, start: int, stop: int) -> bool:
        """Whether any byte of a stretch is not as it was written, or two that were apart meet in it."""
        return any(start < high and low < stop for low, high in self.spans)


def mutate(data: bytes, seed: int, block: int = 64) -> Mutation:
    """One of the ways in which files break, by turns; where, ``seed`` says. Stretches are up to 20 ``block`` long."""
    rng = np.random.default_rng([seed, len(data)])
    size = int(min(len(data) // 2, block * rng.integers(1, 21)))
    at, other = sorted(int(place) for place in rng.integers(0, len(data) - size, 2))
    if seed % 2:  # as a file system would
        at, other, size = at // block * block, other // block * block, max(block, size // block * block)
    piece, noise = data[at : at + size], rng.bytes(size)

    def put(what: str, content: bytes, *more: tuple[int, bytes]) -> Mutation:
        changed = bytearray(data)
        for place, part in ((at, content), *more):
            changed[place : place + len(part)] = part
        spans = [(place, place + len(part)) for place, part in ((at, content), *more)]
        return Mutation(f"{what} at {at}", bytes(changed[: len(data)]), spans)

    def seam(what: str, changed: bytes, *places: int) -> Mutation:
        return Mutation(f"{what} at {at}", changed, [(place - 1, place + 1) for place in places])

    ways: list[Callable[[], Mutation]] = [
        lambda: put("one bit flipped", bytes([data[at] ^ 1 << seed % 8])),
        lambda: put("two bits flipped", bytes([data[at] ^ 4]), (other, bytes([data[other] ^ 32]))),
        lambda: seam("cut", data[:at], at),
        lambda: seam(f"{size} bytes gone", data[:at] + data[at + size :], at),
        lambda: seam(f"{size} bytes doubled", data[:at] + piece + data[at:], at + size),
        lambda: put(f"{size} bytes zeroed", bytes(size)),
        lambda: put(f"{size} bytes of noise", noise),
        lambda: put(f"{size} bytes from {other}", data[other : other + size]),
        lambda: put("a huge number", b"\xff\xff\xff\xff\xff\xff\xff\x7f"),
        lambda: put("a huge octal number", b"77777777777"),
        lambda: seam("the beginning gone", data[at:], 0),
        lambda: Mutation(f"{size} bytes behind the end", data + noise, [(len(data), len(data) + size)]),
    ]
    return ways[seed // 2 % len(ways)]()


NUM_WAYS = 24  # seeds until every way has come, once at any byte and once at a block


def strangers(mark: Path) -> dict[str, bytes]:
    """What lies in place of a file: fetched badly, or put there by somebody; unpickled, it would make ``mark``."""
    return {
        "nothing": b"",
        "a page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
        "a pickle": pickle.dumps({"state_dict": Trap(mark)}),
        "an old pickle": pickle.dumps(Trap(mark), protocol=0),
        "an array of objects": _header("'|O'", "(1,)") + pickle.dumps([Trap(mark)]),
        "a huge array": _header("'<f4'", "(1152921504606846976, 9)"),
        "a wide array": _header("'<f4'", "(3, 1152921504606846976)"),
        "an array whose size wraps to 4 bytes": _header("'<f4'", "(4611686018427387905, 1)") + bytes(64),
        "uids whose size wraps to 16 bytes": _header("[('f0', '<u8'), ('f1', '<u8')]", "(1152921504606846977,)")
        + bytes(64),
        "noise": bytes(range(256)) * 8,
        "zeros": bytes(4096),
    }


def _header(dtype: str, shape: str) -> bytes:
    """What a .npy file begins with."""
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00v\x00" + text.ljust(117).encode() + b"\n"


def outcome(action: Callable[[], T], path: Path | str) -> T | None:
    """What ``action`` returns; None when it refuses, in one line that names ``path`` and what to do.

    Whatever else it raises is the failure of the test.
    """
    try:
        return action()
    except ClipsiftError as error:
        message = str(error)
    assert "\n" not in message
    assert str(path) in message, message
    assert _REMEDY.search(message.replace(str(path), "").lower()), f"no remedy: {message}"
    return None
