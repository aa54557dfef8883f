"""Where the candidates are: tar shards and metadata files, on a disk or behind any fsspec address."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from selection.pool.discovery import discover
from selection.pool.left_out import BESIDE_PATTERN, LeftOut, by_kind, describe
from selection.pool.names import unique_names
from selection.samples.fields import Fields


@dataclass(frozen=True)
class Shard:
    """One tar.

    Attributes:
        url: what opens it.
        name: its path below the pool without the suffix, ``/`` as ``_``: unique in the pool.
        promise: how many samples are in it, or the file that says so; "" when there is none, None when nobody looked.
        source: which of the folders that make the pool it is from.
    """

    url: str
    name: str
    promise: str | int | None = field(default=None, compare=False)
    source: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Metadata:
    """One metadata file, a parquet. ``name`` is unique in the pool: its stem, unless another file has the same."""

    url: str
    name: str


@dataclass
class Pool:
    """All candidate pairs at ``location``.

    ``location`` is one of: a folder with tars and metadata (parquet and npz) at any depth, links to folders included,
    such as a DataComp download (``shards/`` and ``metadata/``); a glob; a brace range
    (``/data/{00000000..00000127}.tar``, ``/data/{cc3m,cc12m}``); any of them behind an fsspec address
    (``s3://bucket/pool``); commands that print a tar (``pipe:ssh host cat {000..127}.tar``); a file that lists any
    of these; or several joined by ``::``. Shards are tars, also packed ones, and parquet files with pictures.

    Attributes:
        shards: in pool order.
        metadata: sorted by name, location by location.
        num_sidecars: files that go with these.
        left_out: all other files, with the reason.

    Raises:
        ClipsiftError: when there is nothing there, or a file is named twice.
    """

    location: str
    fields: Fields = field(default_factory=Fields)  # which members of a tar, or columns of a parquet, make a sample
    shards: list[Shard] = field(init=False)
    metadata: list[Metadata] = field(init=False)
    num_sidecars: int = field(init=False)
    left_out: list[LeftOut] = field(init=False)

    def __post_init__(self) -> None:
        found = [found for part in str(self.location).split("::") for found in discover(part, self.fields)]
        shards = [(place, number) for number, part in enumerate(found) for place in part.shards]
        names = unique_names([place for place, _ in shards])
        metadata = [place for part in found for place in part.metadata]
        self.shards = [
            Shard(place.url, name, place.promise, source) for (place, source), name in zip(shards, names, strict=True)
        ]
        self.metadata = [Metadata(place.url, name) for place, name in zip(metadata, unique_names(metadata))]
        self.num_sidecars = sum(part.num_sidecars for part in found)
        self.left_out = self._without_taken([left for part in found for left in part.left_out])
        if not self.shards and not self.metadata:
            seen = "".join(f"; {describe(group, self.location)}" for group in by_kind(self.left_out).values())
            raise ClipsiftError(f"pool: no .tar shards and no metadata at {self.location}{seen}")

    def _without_taken(self, left_out: list[LeftOut]) -> list[LeftOut]:
        """Without what lies beside one pattern and is taken by another part of the location."""
        if not any(left.kind == BESIDE_PATTERN for left in left_out):
            return left_out
        taken = {file.url for file in self.shards} | {file.url for file in self.metadata}
        taken |= {f"{url[: slash.start()]}/" for url in taken for slash in re.finditer("/", url)}
        beside = {left.path: left for left in left_out if left.kind == BESIDE_PATTERN and left.path not in taken}
        return [*(left for left in left_out if left.kind != BESIDE_PATTERN), *beside.values()]

    @classmethod
    def shared(cls, location: str, fields: Fields | None = None) -> Pool:
        """The pool as rank 0 finds it now, on every rank; a collective call."""
        return on_rank_zero(lambda: cls(location, fields or Fields()))

    def part(self, shards: Sequence[Shard]) -> Pool:
        """The pool of some of its shards alone; nothing is left out of that."""
        pool = copy.copy(self)
        pool.shards, pool.left_out = list(shards), []
        return pool
