"""What lies at one location: its files listed and classed, and where each is."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby

import fsspec
from braceexpand import braceexpand
from fsspec.implementations.local import LocalFileSystem

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint
from selection.pool.counts import counts_below
from selection.pool.left_out import BESIDE_PATTERN, LeftOut
from selection.pool.listed import Entry, is_list, read_list
from selection.pool.listing import list_files
from selection.pool.names import Place
from selection.pool.packed.parquet_columns import columns_of, find_columns, kind_of
from selection.pool.patterns import entries_beside, expand, is_pattern
from selection.pool.suffixes import shard_suffix, without_suffix
from selection.pool.survey import Survey, classify
from selection.samples.fields import Fields

_READERS = 16  # files whose ends are read at a time; an object store takes its time for each
_NAMED = 5  # places in a message
_SHARDS = "shards/"  # DataComp's folder of shards, which are called by their paths below it


@dataclass
class Found:
    """What is at a location: shards and metadata in order, how many files go with them, and what is left out."""

    shards: list[Place] = field(default_factory=list)
    metadata: list[Place] = field(default_factory=list)
    num_sidecars: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


def discover(location: str, fields: Fields) -> Iterator[Found]:
    """What is at a location, which may be a pattern or commands; see :class:`selection.pool.location.Pool`.

    ``fields`` say which columns make a parquet a shard.

    Raises:
        ClipsiftError: when it does not exist or cannot be listed.
    """
    if location.startswith("pipe:"):
        yield Found(
            [Place(command, _name_of_command(command), command, "", promise="") for command in braceexpand(location)]
        )
        return
    entries = read_list(location) if is_list(location) else [Entry(location)]
    counts = {entry.location: entry.num_samples for entry in entries if entry.num_samples is not None}
    meant = [list(expand(entry.location)) for entry in entries]
    folders = _folders_of_files([place for places in meant for place in places])
    for folder, places in groupby(folders, key=folders.__getitem__):
        if folder is None:
            for place in places:
                yield _in_folder(place, fields)
        else:
            names = [place.rsplit("/", 1)[-1] for place in places]
            yield _listed(folder, names, {name: counts.get(f"{folder}/{name}") for name in names}, fields)
    for entry, places_of_entry in zip(entries, meant):
        if is_pattern(entry.location):
            yield Found(left_out=_beside(entry.location, places_of_entry))


def _folders_of_files(places: Sequence[str]) -> dict[str, str | None]:
    """The folder that each file is in; None for a folder.

    A remote shard is not asked for: whoever reads it will be told.
    """
    found, missing = dict[str, str | None](), []
    if repeated := next((place for place, times in Counter(places).items() if times > 1), None):
        raise ClipsiftError(f"pool: {repeated} is named twice; leave one out")
    for place in places:
        fs, path = fsspec.core.url_to_fs(place)
        found[place] = place.rpartition("/")[0]
        if isinstance(fs, LocalFileSystem) or not shard_suffix(path):
            if fs.isdir(path):
                found[place] = None
            elif not fs.exists(path):
                missing.append(place)
    if missing:
        others = missing[1:_NAMED] + ([f"{len(missing) - _NAMED:,} more"] if len(missing) > _NAMED else [])
        raise ClipsiftError(f"pool: {missing[0]} does not exist" + (f", nor {', '.join(others)}" if others else ""))
    return found


def _beside(location: str, places: Sequence[str]) -> list[LeftOut]:
    """Data and folders that lie beside what a pattern takes."""
    fs, _ = fsspec.core.url_to_fs(location)
    taken = {str(fs._strip_protocol(place)).rstrip("/") for place in places}
    found = []
    for folder, names in entries_beside(location, places).items():
        survey = classify({name: None for name in names if not name.endswith("/")})
        lost = (left.path for left in survey.left_out if left.loses)
        data = [name for name in names if name.endswith("/") and not name.startswith(".")]
        data += [*survey.shards, *survey.metadata, *survey.unsure, *lost]
        found += [f"{folder}/{name}" for name in sorted(data) if f"{folder}/{name}".rstrip("/") not in taken]
    is_local = isinstance(fs, LocalFileSystem)
    return [LeftOut(path if is_local else str(fs.unstrip_protocol(path)), BESIDE_PATTERN) for path in found]


def _in_folder(place: str, fields: Fields) -> Found:
    folder = _Folder(place, fields)
    listing = list_files(folder.fs, folder.root)
    counts = counts_below(folder.fs, folder.root, [*listing.files, *listing.not_entered])
    found = folder.found(classify(listing.files, listing.not_entered), counts, otherwise="")
    found.shards.sort(key=lambda place: place.inside)  # tars and parquets with pictures
    return found


def _listed(folder: str, names: Sequence[str], counts: Mapping[str, int | None], fields: Fields) -> Found:
    """What some files of a folder are that were named or fit a glob, in the order given."""
    survey = classify(dict.fromkeys(names))
    survey.shards = {name: survey.shards[name] for name in names if name in survey.shards}
    return _Folder(folder, fields).found(survey, counts, otherwise=None)


class _Folder:
    """Makes places of paths below ``address``."""

    def __init__(self, address: str, fields: Fields) -> None:
        self.fields = fields
        self.fs, self.root = fsspec.core.url_to_fs(address)
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.location = self.url("").replace("://", "/").strip("/")

    def url(self, path: str) -> str:
        whole = f"{self.root.rstrip('/')}/{path}"
        return whole if self.is_local else str(self.fs.unstrip_protocol(whole))

    def found(self, survey: Survey, counts: Mapping[str, int | None], otherwise: str | None) -> Found:
        """The files of a survey with their addresses.

        Args:
            counts: samples of shards, where an index says how many they are.
            otherwise: the promise of a shard of which neither an index nor a file of the survey says it.
        """
        parquets = _sorted_parquets(survey, self.url, self.fields)
        promises = survey.shards | {path: path for path in parquets["shards"]}
        others = [LeftOut(path, "other_parquet") for path in parquets["other"]]
        metadata = map(self._metadata, [*survey.metadata, *parquets["metadata"]])
        return Found(
            [
                self._shard(path, self.url(promise) if promise else counts.get(path, otherwise))
                for path, promise in promises.items()
            ],
            sorted(metadata, key=lambda place: (place.name, place.inside)),
            survey.num_sidecars,
            [self._left_out(left) for left in [*survey.left_out, *others]],
        )

    def _shard(self, path: str, promise: str | int | None) -> Place:
        name = without_suffix(path.removeprefix(_SHARDS)).replace("/", "_")
        return Place(self.url(path), name, path, self.location, promise)

    def _metadata(self, path: str) -> Place:
        return Place(self.url(path), without_suffix(path.rsplit("/", 1)[-1]), path, self.location)

    def _left_out(self, left: LeftOut) -> LeftOut:
        return replace(left, path=self.url(left.path), promise=self.url(str(left.promise)) if left.promise else "")


def _sorted_parquets(survey: Survey, url: Callable[[str], str], fields: Fields) -> dict[str, list[str]]:
    """The parquet files that are ``shards``, with pictures, ``metadata``, or ``other``, by their columns.

    One that is damaged goes with those around it: whoever reads it will say so.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        columns = list(readers.map(lambda path: columns_of(url(path)), survey.unsure))
    kinds = [kind_of(schema, fields) for schema in columns]
    if set(kinds) == {"other"} and not survey.shards and not survey.metadata:
        find_columns(columns[0], url(survey.unsure[0]), fields)  # which says what is missing
    uids = "other" if survey.shards or "pictures" in kinds else "metadata"
    damaged = "shards" if "pictures" in kinds else uids
    family = {"pictures": "shards", "uids": uids, "damaged": damaged, "other": "other"}
    found: dict[str, list[str]] = {"shards": [], "metadata": [], "other": []}
    for path, kind in zip(survey.unsure, kinds):
        found[family[kind]].append(path)
    return found


def _name_of_command(command: str) -> str:
    """The stem of the last tar that a command names, else a hash of it."""
    tars = re.findall(r"([^\s/'\"]+)\.tar\b", command)
    return tars[-1] if tars else fingerprint(command)
