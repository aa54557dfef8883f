"""Every file of a pool's location classed: shard, metadata, sidecar, or left out with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from selection.pool.counts import ENERGON_FOLDER
from selection.pool.left_out import Family, LeftOut
from selection.pool.packed.shards import PARQUET_SUFFIXES
from selection.pool.suffixes import (
    ARCHIVE_SUFFIXES,
    ARIA2,
    FEATURE_SUFFIXES,
    PACKED_SUFFIXES,
    PARTIAL_SUFFIXES,
    SHARD_SUFFIXES,
    SIDECAR_NAMES,
    SIDECAR_SUFFIXES,
    STATS,
    ending,
    shard_of,
    shard_suffix,
    without_suffix,
)

METADATA_FOLDER = "metadata"
# What caches and run directories hold could be taken for data. They are known by names that only we give.
_OWN = re.compile(
    r"(.*/)?(?:(?:index|features|scores|contents|targets|teacher)/(?=[0-9a-f]{16}[./])|selection/(?=scores/|subset\.))"
)
_CACHED_SHARD = re.compile(r"(.*/)?shards/(?=[0-9a-f]{16}(?:-packed)?(?:\.tar|\.\d+\.part)?$)")
_EMBEDDINGS = re.compile(r"(.*/)?(img_emb|text_emb)/\2_\d+\.npy")  # clip-retrieval's, beside its metadata


@dataclass
class Survey:
    """The files of one location, by paths relative to it, sorted.

    Attributes:
        shards: shard -> the file that says how many samples it holds ("" without one).
        metadata: parquet files.
        unsure: parquet files whose columns tell whether they are shards, with pictures, or metadata.
        num_sidecars: files that go with these (statistics, checksums, features, notes).
        left_out: all others.
    """

    shards: dict[str, str] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    unsure: list[str] = field(default_factory=list)
    num_sidecars: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


def classify(files: Mapping[str, int | None], not_entered: Mapping[str, str] | None = None) -> Survey:
    """Class files by their paths and what lies beside them; nothing is opened.

    Args:
        files: path relative to the location -> bytes, None when unknown.
        not_entered: path -> kind of what the walk left out itself.
    """
    aside = _set_aside(files)
    tops = dict(not_entered or {}) | dict(aside.values())
    return _Classifier({path: size for path, size in files.items() if path not in aside}, tops).survey


def _set_aside(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Path -> (the outermost folder, or itself, that is left out as a whole; its kind) where there is one."""
    found = {path: (top, "hidden") for path in paths if (top := _hidden(path))}
    own = {match[0]: match[1] for path in paths if (match := _OWN.match(path))}
    caches = set(own.values())
    for path in paths if own else ():
        folders = (path[: slash.end()] for slash in re.finditer("/", path))
        cached = _CACHED_SHARD.match(path)
        if folder := next((folder for folder in folders if folder in own), None):
            found[path] = (folder, "own_output")
        elif cached and cached[1] in caches:
            found[path] = (cached[0], "own_output")
    return found


def _hidden(path: str) -> str:
    """The outermost file or folder on the way to ``path`` that is hidden (``a/.b/c`` -> ``a/.b/``); "" without one."""
    if not path.startswith(".") and "/." not in path:
        return ""
    start = 0 if path.startswith(".") else path.index("/.") + 1
    end = path.find("/", start)
    return path if end < 0 else path[: end + 1]


class _Classifier:
    """A *place* is a path without its suffix: what the forms of a shard and the files that go with it share."""

    def __init__(self, files: Mapping[str, int | None], not_entered: Mapping[str, str]) -> None:
        self.files, self.survey = files, Survey()
        self.claimed = {place for path in [*files, *not_entered] if (place := shard_of(path))}  # by any form of a shard
        self.whole: dict[str, str] = {}  # place -> the suffix that is read there
        for path in filter(self._is_whole, files):
            place, suffix = without_suffix(path), shard_suffix(path).lower()
            self.whole[place] = min(self.whole.get(place, suffix), suffix, key=SHARD_SUFFIXES.index)
        self.counted: set[tuple[str, str]] = set()  # families and places whose samples are lost already
        for path in sorted(files):
            self._class(path)
        for path, kind in sorted(not_entered.items()):
            if path.endswith(ENERGON_FOLDER):
                self.survey.num_sidecars += 1
            else:
                self._leave_out(path, kind, shard_of(path) if kind == "broken_link" else None)

    def _is_whole(self, path: str) -> bool:
        return bool(shard_suffix(path)) and path + ARIA2 not in self.files

    def _class(self, path: str) -> None:
        name, place = path.rsplit("/", 1)[-1].lower(), shard_of(path)
        if shard_suffix(path):
            self._shard(path)
        elif partial := ending(path, PARTIAL_SUFFIXES):
            self._partial(path, path.removesuffix(partial))
        elif ending(path, PARQUET_SUFFIXES):
            self._parquet(path, without_suffix(path))
        elif ending(path, FEATURE_SUFFIXES):
            self._features(path, without_suffix(path))
        elif path.endswith(STATS) and self.whole and path.removesuffix(STATS) not in self.claimed:
            self._leave_out(path, "missing_shard", path.removesuffix(STATS))
        elif name in SIDECAR_NAMES or _EMBEDDINGS.fullmatch(path) or ending(path, SIDECAR_SUFFIXES):
            self.survey.num_sidecars += 1
        elif ending(path, PACKED_SUFFIXES):
            self._leave_out(path, "copy_of_shard" if place in self.whole else "packed_shard", place)
        elif ending(path, ARCHIVE_SUFFIXES):
            self._leave_out(path, "archive", place)
        else:
            self._leave_out(path, "unknown_suffix" if place else "other_file", place)

    def _shard(self, path: str) -> None:
        place = without_suffix(path)
        if not self._is_whole(path):
            self._leave_out(path, "partial_download", place)
        elif shard_suffix(path).lower() != self.whole[place]:
            self._leave_out(path, "copy_of_shard", place)
        else:
            self.survey.shards[path] = self._promise(place)

    def _partial(self, path: str, meant: str) -> None:
        """``meant``: what it would have become."""
        if meant not in self.files and ending(meant, PARQUET_SUFFIXES):
            self._leave_out(path, "partial_download", without_suffix(meant), "metadata")
        else:
            self._leave_out(path, "partial_download", shard_of(path))

    def _parquet(self, path: str, place: str) -> None:
        if any(place + suffix in self.files for suffix in FEATURE_SUFFIXES) or METADATA_FOLDER in path.split("/")[:-1]:
            self.survey.metadata.append(path)
        elif place in self.claimed:
            self.survey.num_sidecars += 1
        else:
            self.survey.unsure.append(path)

    def _features(self, path: str, place: str) -> None:
        if any(place + suffix in self.files for suffix in PARQUET_SUFFIXES):
            self.survey.num_sidecars += 1
        else:
            self._leave_out(path, "features_alone", place, "metadata")

    def _leave_out(self, path: str, kind: str, place: str | None = None, family: Family = "shards") -> None:
        """``place``: of the samples that are lost with it, unless they are there in another form."""
        left = LeftOut(path, kind, size=self.files.get(path))
        if place is not None and (family, place) not in self.counted and place not in self.whole:
            self.counted.add((family, place))
            left = replace(left, loses=family, promise=self._promise(place) if family == "shards" else "")
        self.survey.left_out.append(left)

    def _promise(self, place: str) -> str:
        for suffix in (STATS, ".parquet"):
            if place + suffix in self.files:
                return place + suffix
        return ""
