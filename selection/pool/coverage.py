"""Shards of which a pool has no metadata, where both have the same names, as img2dataset and ``embed`` give them."""

from __future__ import annotations

from functools import cached_property

from clipsift_common.tars import BLOCK
from selection.pool.left_out import LeftOut
from selection.pool.location import Pool, Shard
from selection.pool.remote import size_of
from selection.pool.suffixes import PARTIAL_SUFFIXES, ending, without_suffix

NO_METADATA = "no_metadata"  # the kind of such shards

_FOLDERS = {"metadata", "shards"}  # of DataComp; files that belong together may lie in one of them or beside
_ASKED = 16  # shards whose bytes are asked for
_LEAST = 2 * BLOCK  # bytes of a tar for a sample: the headers of picture and caption


class Coverage:
    """Which shards have metadata, by their names. DataComp's metadata are not called like its shards: nothing is known.

    Args:
        pool: with shards and metadata.
        rows_per_file: of metadata, about. When the shards are too small to hold as many samples, files and shards are
            called alike by chance.
    """

    def __init__(self, pool: Pool, rows_per_file: float) -> None:
        self._rows_per_file = rows_per_file
        places = {_place(file.url) for file in pool.metadata}
        places |= {_place(left.path) for left in pool.left_out if left.loses == "metadata"}  # which is counted itself
        names = {file.name for file in pool.metadata}
        self._with: list[Shard] = []
        self._without: list[Shard] = []
        for shard in pool.shards:
            has_some = shard.name in names or _place(shard.url) in places
            (self._with if has_some else self._without).append(shard)

    @cached_property
    def shard_bytes(self) -> float:
        """Of a mean shard with metadata."""
        step = -(-len(self._with) // _ASKED)
        sizes = [size_of(shard.url) or 0 for shard in self._with[::step]]
        return sum(sizes) / len(sizes)

    def lacking(self) -> list[LeftOut]:
        """The shards without metadata, of which nothing can be selected."""
        if not self._with or not self._without or self.shard_bytes < _LEAST * self._rows_per_file:
            return []
        return [LeftOut(shard.url, NO_METADATA, "metadata", shard.promise or "") for shard in self._without]


def _place(url: str) -> str:
    """A path without its suffix, and without the folders that tell metadata from shards."""
    whole = without_suffix(url.removesuffix(ending(url, PARTIAL_SUFFIXES)))
    return "/".join(part for part in whole.split("/") if part not in _FOLDERS)
