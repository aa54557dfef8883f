"""The files of a pool that are not used, by kind: why, and what helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Family = Literal["shards", "metadata"]


@dataclass(frozen=True)
class Kind:
    """Why files of a kind are left out, and what helps where help is needed."""

    reason: str
    remedy: str = ""


BESIDE_PATTERN = "beside_pattern"
KINDS = {
    "packed_shard": Kind("tars compressed by a way that is not read", "unpack them"),
    "archive": Kind("archives that are no tars", "make tar shards of them, or move them out of the pool"),
    "partial_download": Kind("downloads that did not end", "download them again, or delete them"),
    "unknown_suffix": Kind("tars, but their names go on behind .tar", "rename them, or move them out of the pool"),
    "broken_link": Kind("links to what is not there", "mount their disk, or delete them"),
    "missing_shard": Kind("statistics of shards that are not here", "download the shards, or delete these files"),
    "features_alone": Kind("features without their parquet", "download the .parquet beside them, or delete them"),
    "no_metadata": Kind(
        "shards without metadata, of which nothing is selected",
        "get or make their metadata (clipsift embed), or give a teacher instead of features",
    ),
    "unreadable_folder": Kind("folders that cannot be listed", "ask for the right to read them"),
    "other_parquet": Kind("parquets without pictures or metadata: not in metadata/, no .npz beside, or no column uid"),
    BESIDE_PATTERN: Kind("lie beside what the pattern takes"),
    "copy_of_shard": Kind("other forms of shards that are here"),
    "repeated_folder": Kind("links to folders that are read already"),
    "own_output": Kind("what clipsift wrote there"),
    "hidden": Kind("names that begin with a dot"),
    "other_file": Kind("neither shards nor metadata"),
}
_NAMED = 3  # of the files of a kind


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not used.

    Attributes:
        path: where it is; a folder ends in ``/``.
        kind: of :data:`KINDS`.
        loses: of what samples are lost with it; None: of nothing.
        promise: how many samples, or the file that says so; "" without one.
        size: bytes; None when unknown.
    """

    path: str
    kind: str
    loses: Family | None = None
    promise: str | int = ""
    size: int | None = None


def by_kind(left_out: Sequence[LeftOut]) -> dict[str, list[LeftOut]]:
    """The files of each kind that there is, in the order of :data:`KINDS`."""
    groups: dict[str, list[LeftOut]] = {kind: [] for kind in KINDS}
    for left in left_out:
        groups[left.kind].append(left)
    return {kind: group for kind, group in groups.items() if group}


def describe(group: Sequence[LeftOut], location: str) -> str:
    """``2 archive (a.zip, b.zip): no tars`` for files of one kind, by their paths below the pool's location."""
    names = ", ".join(left.path.removeprefix(f"{location.rstrip('/')}/") for left in group[:_NAMED])
    names = names.encode(errors="backslashreplace").decode()  # of a file called by bytes that are no UTF-8
    more = ", ..." if len(group) > _NAMED else ""
    return f"{len(group):,} {group[0].kind} ({names}{more}): {KINDS[group[0].kind].reason}"
