"""The uids to train on, as a file: DataComp's sorted ``.npy`` of ``u8,u8``, repeats meaning repeated samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from common.errors import ClipsiftError
from common.files import atomic_path
from selection.uids import UID_DTYPE, sort_key, sort_uids


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
    def load(cls, path: str | Path) -> Subset:
        """Read a subset file. One that is unsorted is sorted; one of another dtype is refused."""
        if not Path(path).is_file():
            raise ClipsiftError(f"subset: {path} does not exist")
        try:
            uids = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise ClipsiftError(f"subset: {path} is no .npy file of uids ({error})") from error
        if uids.dtype != UID_DTYPE or uids.ndim != 1:
            raise ClipsiftError(f"subset: {path} holds {uids.ndim}-D {uids.dtype}, not 1-D u8,u8")
        return cls(uids)

    def save(self, path: str | Path) -> None:
        """Write the subset file, atomically."""
        with atomic_path(path) as temporary, open(temporary, "wb") as handle:
            np.save(handle, self.uids, allow_pickle=False)

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
        return self.uids[np.r_[True, self.uids[1:] != self.uids[:-1]]]

    def multiplicity(self, uids: np.ndarray) -> np.ndarray:
        """(n,) int64: how often each of ``uids`` (any order) is in the subset; 0 where it is not."""
        mine, theirs = sort_key(self.uids), sort_key(uids)
        return np.searchsorted(mine, theirs, "right") - np.searchsorted(mine, theirs, "left")

    def union(self, *others: Subset) -> Subset:
        """Uids that are in any of the subsets, each once."""
        everything = Subset(np.concatenate([self.uids, *(other.uids for other in others)]))
        return Subset(everything.unique)

    def intersection(self, *others: Subset) -> Subset:
        """Uids that are in all of the subsets, each once."""
        kept = self.unique
        for other in others:
            kept = kept[other.multiplicity(kept) > 0]
        return Subset(kept)

    def difference(self, *others: Subset) -> Subset:
        """Uids of this subset that are in none of the others, each once."""
        kept = self.unique
        for other in others:
            kept = kept[other.multiplicity(kept) == 0]
        return Subset(kept)

    def __or__(self, other: Subset) -> Subset:
        return self.union(other)

    def __and__(self, other: Subset) -> Subset:
        return self.intersection(other)

    def __sub__(self, other: Subset) -> Subset:
        return self.difference(other)
