"""Do subset files and metadata belong to these shards?"""

from __future__ import annotations

import numpy as np

from clipsift_app.doctor.finding import Finding, evenly
from clipsift_app.settings import RunSettings
from clipsift_common.errors import ClipsiftError
from selection.features.files import FeatureFile
from selection.features.in_tars import WEBDATASET
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from selection.uids import sort_key

_MIN_EXPECTED = 10  # samples; with fewer, none found says nothing
_METADATA_FILES = 8  # looked at unless all are
_LITTLE = 0.9  # coverage below which it is worth a word


def check_subsets(run: RunSettings, index: PoolIndex, num_pool: float, exact: bool) -> list[Finding]:
    """How much of each subset file that the run names is in the pool, from the shards in ``index``.

    Args:
        run: the settings.
        index: of the shards that were read.
        num_pool: samples in all shards, estimated unless ``exact``.
        exact: whether ``index`` holds all shards.
    """
    named = [run.data.get("subset"), run.selection.within]
    named += [*run.selection.union, *run.selection.intersect, *run.selection.subtract]
    return [_check_subset(path, index, num_pool, exact) for path in named if path]


def _check_subset(path: str, index: PoolIndex, num_pool: float, exact: bool) -> Finding:
    name = f"subset {path.rsplit('/', 1)[-1]}"
    try:
        subset = Subset.load(path)
    except ClipsiftError as error:
        return Finding(name, "fail", str(error), "give a subset file: sorted uids, .npy of u8,u8")
    found, wanted = int(np.count_nonzero(subset.multiplicity(index.uids))), len(subset.unique)
    expected = wanted * len(index) / max(num_pool, 1)  # in what was read, if all of it were in the pool
    if not found and (exact or expected >= _MIN_EXPECTED):
        text = f"none of its {wanted:,} samples among {len(index):,} of the pool"
        return Finding(name, "fail", text, "it is of another pool: take the subset of this one, or select anew")
    if not found:
        return Finding(name, "warn", f"{wanted:,} samples, too few to meet any in what was read", "use --all")
    coverage = min(1.0, found / expected)
    text = f"{'' if exact else 'about '}{coverage:.0%} of its {wanted:,} samples are in the pool"
    if coverage < _LITTLE:
        return Finding(name, "warn", text, "the rest was not downloaded; results are those of a smaller subset")
    return Finding(name, "ok", text)


def check_metadata(run: RunSettings, pool: Pool, index: PoolIndex | None, read_all: bool) -> list[Finding]:
    """Metadata files have the features asked for, one row each, and know the samples of the shards."""
    name = run.selection.features
    if not pool.metadata:
        if not name or name == WEBDATASET:  # which are in the shards
            return []
        remedy = "download it (DataComp: --download_npz), or make it with clipsift embed"
        return [Finding("metadata", "fail", f"{run.pool} has none, features {name} are asked for", remedy)]
    count = len(pool.metadata) if read_all else min(len(pool.metadata), _METADATA_FILES)
    files = [FeatureFile(file.url, name) for file in evenly(pool.metadata, count)]
    try:
        uids = np.concatenate([file.uids() for file in files])
        for file in files if name else ():
            _check_features(file)
    except ClipsiftError as error:
        return [Finding("metadata", "fail", str(error), "download or make these files again")]
    text = f"{len(uids):,} rows in {count:,} of {len(pool.metadata):,} files"
    if index is None:
        return [Finding("metadata", "ok", text)]
    share = count / len(pool.metadata)
    known = np.isin(sort_key(index.uids), sort_key(uids)).mean() / share
    text += f"; {'about ' if share < 1 else ''}{min(known, 1):.0%} of the samples read from shards are in it"
    if not known and len(index) * share >= _MIN_EXPECTED:
        return [Finding("metadata", "fail", text, "metadata and shards are of different pools")]
    if known < _LITTLE:
        return [Finding("metadata", "warn", text, "what has no metadata is not selected; embed the shards instead")]
    return [Finding("metadata", "ok", text)]


def _check_features(file: FeatureFile) -> None:
    """Both arrays are there, of as many rows as the parquet: judged by their sizes."""
    for _, num_bytes in file.array_marks():
        if num_bytes < 2 * file.num_rows():
            raise ClipsiftError(f"{file.feature_files[-1]}: too small for {file.num_rows():,} rows")
