"""Features as members of tars, as webdataset's users write them: ``KEY.img_emb.npy``, ``KEY.text_emb.npy``.

They lie in the shards beside the pictures, or in tars of their own that are called like the shards (``00000.tar`` in
another folder, ``00000_emb.tar``). They are joined by key, or by uid where the key is one, never by position.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from clipsift_common.data_report import DataReport
from clipsift_common.distributed import barrier, on_rank_zero, rank, world_size
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import fingerprint, read_json, wait_for, write_json
from clipsift_common.progress import Progress
from clipsift_common.tar_samples import TarReader, TarSample
from clipsift_common.tars import Member
from selection.features.files import FeatureFile, write_arrays
from selection.features.npz import whole_array
from selection.kernels.arrays import native
from selection.pool.index import PoolIndex
from selection.pool.suffixes import without_suffix
from selection.samples.scan import IN_JSON, NPY
from selection.uids import format_uids

WEBDATASET = "webdataset"  # what ``selection.features`` calls them

_ARRAYS = {"image": f"{WEBDATASET}_img", "text": f"{WEBDATASET}_txt"}
_WORDS = {
    "text": {"txt", "text", "texts", "caption", "captions"},
    "image": {"img", "image", "images", "visual", "vision", "picture"},
}
_LARGEST = 1 << 20  # bytes of the features of one sample
_LOST = "missing_features"

logger = logging.getLogger("clipsift")


def features_in_tars(index: PoolIndex, towers: Collection[str], folder: Path) -> tuple[list[FeatureFile], DataReport]:
    """Write the features of the pool's samples that lie in its tars into ``folder``, a file for each shard.

    A collective call, shards over ranks. Files are named by what shard and tars of features are, so those that are
    there are kept.

    Args:
        towers: of ``image`` and ``text``, those that a sample needs; one without them is lost, by name.

    Returns:
        The feature files in shard order, and the samples without usable features.

    Raises:
        ClipsiftError: for features that differ in width, several for one sample, or a tar that may belong to several
            shards.
    """
    beside = _tars_beside(index)
    shards = [shard for shard in range(len(index.shards)) if len(index.shard_rows(shard))]
    files = {}
    for shard in shards:
        stamps = [[index.shards[number].url, index.table.stamp(number)] for number in [shard, *beside[shard]]]
        content = fingerprint([index.shard_fingerprint(shard), stamps, sorted(towers)])
        called = index.shards[shard].name
        files[shard] = FeatureFile(str(folder / f"{called}-{content}.parquet"), WEBDATASET, called)
    mine = shards[rank() :: world_size()]
    with Progress("features", len(mine), "shards") as progress:
        for shard in mine:
            if not Path(files[shard].path).is_file():
                _write(index, shard, beside[shard], sorted(towers), Path(files[shard].path))
            progress.advance(1)
    barrier()
    made = list(files.values())
    return made, DataReport.from_dict(on_rank_zero(lambda: _merged(made).as_dict()))


def _merged(files: Sequence[FeatureFile]) -> DataReport:
    report = DataReport()
    for file in files:
        path = Path(file.path).with_suffix(".json")
        wait_for(path)
        report.merge(read_json(path), logs=True)
    return report


def _tars_beside(index: PoolIndex) -> dict[int, list[int]]:
    """The tars of features of each shard, by their names."""
    features = set(index.feature_tars)
    shards = [number for number in range(len(index.shards)) if number not in features]
    by_name: dict[str, list[int]] = {}
    for shard in shards:
        by_name.setdefault(_base(index.shards[shard].url), []).append(shard)
    beside: dict[int, list[int]] = {shard: [] for shard in shards}
    for tar in index.feature_tars:
        url = index.shards[tar].url
        fitting = next((by_name[name] for name in _names_in(_base(url)) if name in by_name), [])
        nearest = max((_shared(url, index.shards[shard].url) for shard in fitting), default=0)
        fitting = [shard for shard in fitting if _shared(url, index.shards[shard].url) == nearest]
        if len(fitting) > 1:
            both = " and ".join(index.shards[shard].url for shard in fitting[:2])
            raise ClipsiftError(f"{url}: may hold features of {both}; put it beside its shard, called like it")
        if not fitting:
            logger.warning("%s: holds features, and no shard is called like it; left out", url)
        for shard in fitting:
            beside[shard].append(tar)
    return beside


def _base(url: str) -> str:
    return without_suffix(url).rsplit("/", 1)[-1]


def _names_in(name: str) -> Iterator[str]:
    """Names of shards that a tar of features may be called after, longest first: ``a_0_emb``, ``a_0``, ``0_emb`` ..."""
    ends = [0, *(place.start() for place in re.finditer(r"[._-]", name)), len(name)]
    parts = {name[start + bool(start) : stop] for start in ends for stop in ends if stop > start}
    yield from sorted(parts, key=lambda part: (-len(part), part))


def _shared(a: str, b: str) -> int:
    """How many folders, from the first, two places have in common."""
    return next((number for number, (x, y) in enumerate(zip(a.split("/"), b.split("/"))) if x != y), 0)


@dataclass
class _Found:
    """The features of one shard's samples, as far as they are found.

    Attributes:
        rows: key or uid -> the sample's place in the shard.
        arrays: tower -> place -> (d,) features.
    """

    shard: str
    rows: dict[str, int]
    towers: Sequence[str]
    arrays: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    report: DataReport = field(default_factory=lambda: DataReport(logs=False))
    why: dict[int, str] = field(default_factory=dict)  # place -> what is wrong with its features

    def take(self, reader: TarReader, url: str, only: bool) -> None:
        """Look for features in a tar; ``only``: it holds nothing else."""
        for run in reader:
            members = _features_of(run, url, only)
            place = self.rows.get(run.key, self.rows.get(run.key.rsplit("/", 1)[-1]))
            if place is None:
                if members:
                    self.report.ignore("features of no sample", self.shard, run.key, url)
                continue
            for tower, member in members:
                if tower in self.towers:
                    self._take(tower, place, member, reader, url)
        if reader.truncated and only:
            logger.warning("%s: is damaged (%s); features before it are used", url, reader.truncated)

    def _take(self, tower: str, place: int, member: Member, reader: TarReader, url: str) -> None:
        known = self.arrays.setdefault(tower, {})
        if place in known:
            raise ClipsiftError(f"{url}: {member.name} is not the only {tower} features of its sample; leave one out")
        try:
            values = _read(reader, member)
        except (ValueError, OSError, EOFError, SyntaxError, RecursionError) as error:
            self.why[place] = f"{member.name}: {first_line(error)}"
            return
        width = len(next(iter(known.values()), values))
        if len(values) != width:
            text = f"{member.name} has {len(values)} numbers, others {width}"
            raise ClipsiftError(f"{url}: {tower} features differ in width ({text}); make them with one teacher")
        known[place] = values


def _features_of(run: TarSample, url: str, only: bool) -> list[tuple[str, Member]]:
    """(Tower, member) of the features of one key."""
    return [
        (_tower(extension, url if only else ""), member)
        for extension, member in (run.parts | run.others).items()
        if extension.rpartition(".")[2] == NPY
    ]


def _tower(extension: str, url: str) -> str:
    """Whose features they are, by the words in the extension, else in the names of tar and folder; else images'."""
    for text in (extension, *reversed(url.lower().split("/")[-2:])):
        words = set(re.split(r"[^a-z]+", text))
        for tower, its in _WORDS.items():
            if words & its:
                return tower
    return "image"


def _read(reader: TarReader, member: Member) -> np.ndarray:
    """(d,) floats; ValueError for anything else. Nothing is unpickled."""
    if member.size > _LARGEST:
        raise ValueError(f"{member.size} bytes")
    values = native(whole_array(reader.read(member)))
    if values.ndim == 2 and len(values) == 1:
        values = values[0]
    if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"{values.ndim}-D {values.dtype}, not a row of floats")
    return values


def _write(index: PoolIndex, shard: int, beside: Sequence[int], towers: Sequence[str], path: Path) -> None:
    rows = index.shard_rows(shard)
    entries = index.entries(rows)
    uids, name = format_uids(entries["uid"]), index.shards[shard].name
    fields, places = index.fields_in(shard), {int(at): place for place, at in enumerate(entries["image_offset"])}
    with index.open_shard(shard) as handle:
        reader = TarReader(handle, fields.extensions(), fields.keys)
        keys = {places[at]: run.key for run in reader for at in _offsets(run) if at in places}
        captions = [_caption(index, shard, reader, entry) for entry in entries]
        names = {uid: place for place, uid in enumerate(uids)} | {key: place for place, key in keys.items()}
        found = _Found(name, names, towers)
        found.take(TarReader(handle, fields.extensions(), fields.keys), index.shards[shard].url, only=False)
    for tar in beside:
        with index.open_shard(tar) as handle:
            found.take(TarReader(handle, (), fields.keys), index.shards[tar].url, only=True)
    whole = []
    for place in range(len(uids)):
        lacking = [tower for tower in towers if place not in found.arrays.get(tower, {})]
        if lacking:
            detail = found.why.get(place, f"no {' and no '.join(lacking)} features")
            found.report.lose(_LOST, name, keys.get(place, uids[place]), detail)
        else:
            whole.append(place)
    arrays = {
        array: np.zeros((len(whole), 0), np.float32) for array in _ARRAYS.values()
    }  # nobody looks at one of these
    if whole:
        arrays |= {_ARRAYS[tower]: np.stack([found.arrays[tower][place] for place in whole]) for tower in towers}
    write_json(path.with_suffix(".json"), found.report.as_dict())
    write_arrays(path.parent, path.stem, entries["uid"][whole], [captions[place] for place in whole], arrays)


def _offsets(run: TarSample) -> list[int]:
    return [member.offset_data for member in (run.parts | run.others).values()]


def _caption(index: PoolIndex, shard: int, reader: TarReader, entry: np.void) -> str:
    size = int(entry["text_size"])
    text = reader.read(Member("", int(entry["text_offset"]), size & ~IN_JSON))
    return index.fields_in(shard).caption_in(text) if size & IN_JSON else text.decode("utf-8", errors="replace").strip()
