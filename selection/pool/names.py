"""Names of shards and metadata files that are unique in a pool, and the same on every machine."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint
from selection.pool.suffixes import without_suffix

_LONGEST = 200  # bytes; names become file names, which end at 255


@dataclass(frozen=True)
class Place:
    """Where a file of a pool is.

    Attributes:
        url: what opens it.
        name: what it is called where no other file of the pool is called so.
        inside: its path below the location.
        location: the location itself, its protocol written as a folder: what tells it from all others.
        promise: how many samples are in it, or the file that says so; "" when there is none, None when nobody looked.
    """

    url: str
    name: str
    inside: str
    location: str
    promise: str | int | None = None


def unique_names(places: Sequence[Place]) -> list[str]:
    """A name for each file, a path with ``_`` for ``/``.

    These are the short names while they differ. Where two are equal, all files get their paths below the location as
    names; where these are equal too, with as many of the location's own folders in front as it takes.

    Raises:
        ClipsiftError: when a file is named twice.
    """
    if repeated := _repeated([place.url for place in places]):
        raise ClipsiftError(f"pool: {repeated[0]} is named twice; leave one out")
    names = paths = [place.name for place in places]
    depth = 0
    while _repeated(paths):
        paths = [_path(place, depth) for place in places]
        names = [without_suffix(path).replace("/", "_") for path in paths]
        depth += 1
    again = set(_repeated(names))  # of a_b/c and a/b_c, of x.tar and x.TAR
    return [
        f"{_shortened(name)}_{fingerprint(path)}" if name in again or _shortened(name) != name else name
        for name, path in zip(names, paths)
    ]


def _path(place: Place, depth: int) -> str:
    above = place.location.split("/")
    return "/".join([*above[len(above) - depth :], place.inside] if depth else [place.inside])


def _shortened(name: str) -> str:
    return os.fsencode(name)[:_LONGEST].decode(errors="ignore")


def _repeated(values: Sequence[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]
