"""What a selection scores: feature files, or arrays, and how they are known by their content."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.distributed import on_rank_zero
from clipsift_common.files import Contents, atomic_path, fingerprint
from clipsift_common.progress import track
from selection.features.files import FeatureFile, FeatureRows
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.uids import uid_column

OPEN_FILES = 16  # metadata files whose ends are read at a time; an object store takes its time for each


@dataclass(frozen=True)
class Source:
    """What is scored.

    Attributes:
        identity: of its content.
        make: makes it now.
        identity_before: what ``subset.json`` had as its identity before; None: the same.
        versions: of the code that makes it, by name.
        is_counted: whether making it counts its samples in the selector's report.
        contents: of each file by name; None: each file is asked for its own.
    """

    identity: str
    make: Callable[[], Sequence[FeatureRows]]
    identity_before: str | None = None
    is_counted: bool = False
    contents: Mapping[str, str] | None = None
    versions: Mapping[str, int] = field(default_factory=dict)

    @property
    def content(self) -> Callable[[FeatureRows], str]:
        """Gives the hash of what is in one of the files that were made; it may be sent to another process."""
        return partial(content_of, self.contents)


def content_of(contents: Mapping[str, str] | None, file: FeatureRows) -> str:
    """Hash of what is in a file, by name if ``contents`` has it."""
    return contents[file.stem] if contents else file.fingerprint()


def metadata_source(
    files: list[FeatureFile], pool: Pool, contents: Contents, make: Callable[[], Sequence[FeatureRows]]
) -> Source:
    """The pool's metadata, known by footers, by the features' checksums and by all else that is in the files, when
    they are here. A collective call."""

    footers, whole, each = on_rank_zero(lambda: _look(files, pool, contents))
    before = fingerprint(footers)
    identity = fingerprint([before, fingerprint(whole)]) if whole else before
    return Source(identity, make, before, is_counted=True, contents=each)


def metadata_contents(files: Sequence[FeatureFile], pool: Pool, contents: Contents) -> dict[str, str]:
    """Content by name of some of the pool's metadata files, as :func:`metadata_source` knows them."""
    return _look(files, pool, contents)[2]


def _look(
    files: Sequence[FeatureFile], pool: Pool, contents: Contents
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Of each file what its footer says; of each local file its content; of each file by name both together."""
    with ThreadPoolExecutor(OPEN_FILES) as opened:
        found_footers = opened.map(FeatureFile.fingerprint, files)
        footers = list(track(found_footers, "look at metadata", len(files), "files", brief=True))
    local = [file.local_files() for file in files]
    paths = [path for part in local for path in part]
    whole = contents.each(pool.location, paths) if paths else {}
    found = iter(whole.values())
    each = {
        file.stem: fingerprint([footer, *islice(found, len(paths))])
        for file, footer, paths in zip(files, footers, local)
    }
    return footers, whole, each


def uid_files(index: PoolIndex, folder: Path) -> list[FeatureFile]:
    """Metadata without features, a file for each shard under ``folder``, for recipes that look at no feature.

    A collective call. Files are named by what the shard holds, so those of an index that has grown are found.
    """
    files = [
        FeatureFile(str(folder / f"{index.content_name(number)}.parquet"), called=shard.name)
        for number, shard in enumerate(index.shards)
    ]

    def write() -> None:
        for number, file in enumerate(track(files, "write uids", unit="files", brief=True)):
            if not Path(file.path).is_file():
                rows = index.shard_rows(number)
                with atomic_path(file.path) as temporary:
                    pq.write_table(pa.table({"uid": uid_column(index.uids[rows.start : rows.stop])}), temporary)

    on_rank_zero(write)
    return files
