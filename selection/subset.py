"""The uids to train on, as a file: DataComp's sorted ``.npy`` of ``u8,u8``, repeats meaning repeated samples."""

from __future__ import annotations

import codecs
import string
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import save_array
from selection.uids import UID_DTYPE, is_sorted, is_uid, parse_uids, search_uids, sort_uids

_TEXT = frozenset(string.printable.encode())


class Subset:
    """A sorted multiset of uids.

    ``|``, ``&`` and ``-`` are the set operations: their results hold every uid once. Published subset files (DFN,
    HYPE, T-MARS ...) load unchanged, and ours load in DataComp's resharder.
    """

    def __init__(self, uids: np.ndarray) -> None:
        """``uids``: (n,) of dtype ``u8,u8`` in any order."""
        if uids.dtype != UID_DTYPE or uids.ndim != 1:
            raise ClipsiftError(f"subset: uids are 1-D of dtype u8,u8, got {uids.ndim}-D of {uids.dtype}")
        self.uids = sort_uids(uids)

    @classmethod
    def of(cls, source: str | Path | np.ndarray | Iterable[str]) -> Subset:
        """The subset that ``source`` means: a file (see :meth:`load`), an array of uids, or hex strings."""
        if isinstance(source, str | Path):
            return cls.load(source)
        return cls(source if isinstance(source, np.ndarray) and source.dtype == UID_DTYPE else parse_uids(list(source)))

    @classmethod
    def load(cls, path: str | Path) -> Subset:
        """Open a subset file, memory mapped: one of billions of uids takes no memory until it is looked into.

        A file that does not end in ``.npy`` holds either a hex string per line, or uids without a header, as
        DataComp's tools also write them: which of the two, its content tells. A file that is unsorted is read whole
        and sorted; one of another dtype is refused.
        """
        if not Path(path).is_file():
            raise ClipsiftError(f"subset: {path} does not exist")
        uids = _mapped(Path(path))
        if not uids.dtype.isnative and uids.dtype.newbyteorder("=") == UID_DTYPE:
            uids = uids.astype(UID_DTYPE)
        if uids.dtype != UID_DTYPE or uids.ndim != 1:
            raise ClipsiftError(
                f"subset: {path} holds {uids.ndim}-D {uids.dtype}, not 1-D u8,u8; make it an array of that"
            )
        return cls.of_sorted(uids) if is_sorted(uids) else cls(uids)

    @classmethod
    def of_sorted(cls, uids: np.ndarray) -> Subset:
        """The subset of ``uids`` that are in order already; they are not copied."""
        subset = cls.__new__(cls)
        subset.uids = uids
        return subset

    def save(self, path: str | Path) -> None:
        """Write the subset file, atomically."""
        save_array(path, self.uids)

    def __len__(self) -> int:
        """Number of samples, repeats counted."""
        return len(self.uids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subset) and np.array_equal(self.uids, other.uids)

    __hash__ = None  # type: ignore[assignment]

    @property
    def unique(self) -> np.ndarray:
        """The distinct uids, sorted."""
        if not len(self.uids):
            return self.uids
        high, low = self.uids["f0"], self.uids["f1"]
        return self.uids[np.r_[True, (high[1:] != high[:-1]) | (low[1:] != low[:-1])]]

    def multiplicity(self, uids: np.ndarray) -> np.ndarray:
        """(n,) int64: how often each of ``uids`` (any order) is in the subset; 0 where it is not."""
        left, right = search_uids(self.uids, uids)
        return right - left

    def union(self, *others: Subset) -> Subset:
        """Uids that are in any of the subsets, each once."""
        everything = Subset(np.concatenate([self.uids, *(other.uids for other in others)]))
        return Subset.of_sorted(everything.unique)

    def intersection(self, *others: Subset) -> Subset:
        """Uids that are in all of the subsets, each once."""
        kept = self.unique
        for other in others:
            kept = kept[other.multiplicity(kept) > 0]
        return Subset.of_sorted(kept)

    def difference(self, *others: Subset) -> Subset:
        """Uids of this subset that are in none of the others, each once."""
        kept = self.unique
        for other in others:
            kept = kept[other.multiplicity(kept) == 0]
        return Subset.of_sorted(kept)

    def __or__(self, other: Subset) -> Subset:
        return self.union(other)

    def __and__(self, other: Subset) -> Subset:
        return self.intersection(other)

    def __sub__(self, other: Subset) -> Subset:
        return self.difference(other)


def _mapped(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if _is_text(path):
            return _from_lines(path)
        if path.stat().st_size % UID_DTYPE.itemsize:
            raise ValueError(f"its size is no multiple of {UID_DTYPE.itemsize} bytes")
        return np.memmap(path, UID_DTYPE, "r") if path.stat().st_size else np.empty(0, UID_DTYPE)
    except (ValueError, OSError, EOFError, OverflowError) as error:  # overflow: of a damaged header's size
        raise ClipsiftError(f"subset: {path} is no .npy file of uids ({first_line(error)}); get it again") from error


def _is_text(path: Path) -> bool:
    """Whether a file begins as text does, in any encoding.

    Nearly all bytes are printable, or half of them with zeros between (UTF-16). Of a uid's 16 bytes so many are by
    chance in one of a hundred thousand.
    """
    with open(path, "rb") as handle:
        start = handle.read(4096).removeprefix(codecs.BOM_UTF8)
    printable = sum(byte in _TEXT for byte in start)
    return printable >= 0.4 * len(start) > 0 and printable + start.count(0) >= 0.9 * len(start)


def _from_lines(path: Path) -> np.ndarray:
    """The uids of a text file, one per line; blank lines, and a first line that only says ``uid``, hold none."""
    try:
        with open(path, encoding="utf-8-sig") as handle:
            lines = [(number, text) for number, line in enumerate(handle, start=1) if (text := line.strip())]
    except UnicodeDecodeError as error:
        raise ClipsiftError(f"subset: {path} is text in another encoding than UTF-8; save it as UTF-8") from error
    if lines and lines[0][1].lower() == "uid":
        del lines[0]
    wrong = next(((number, text) for number, text in lines if not is_uid(text)), None)
    if wrong:
        raise ClipsiftError(
            f"subset: {path} line {wrong[0]}: {wrong[1][:60]!r} is no uid; give one of 32 hex characters a line"
        )
    return parse_uids([text for _, text in lines])
