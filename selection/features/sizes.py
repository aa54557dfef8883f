"""How large the files of a pool's metadata are, in bytes and in rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clipsift_common.distributed import share_out
from selection.features.files import FeatureFile, FeatureRows
from selection.pool.coverage import NO_METADATA, Coverage
from selection.pool.left_out_report import logged_report
from selection.pool.location import Pool
from selection.pool.remote import size_of


def metadata_sizes(files: Sequence[FeatureFile], coverage: Coverage) -> Callable[[str], list[int]]:
    """Gives for a kind of file that is left out the bytes of those of ``files``, or of their shards, to compare it
    with."""

    def sizes(kind: str) -> list[int]:
        if kind == NO_METADATA:
            return [round(coverage.shard_bytes)] * len(files)
        of_features = kind == "features_alone"
        return [
            sum(size_of(path) or 0 for path in (file.feature_files if of_features else [file.path])) for file in files
        ]

    return sizes


def metadata_report(pool: Pool, files: Sequence[FeatureFile], rows: int) -> dict[str, Any]:
    """What a selection from the metadata ``files``, of ``rows`` rows, leaves out, logged and as plain values."""
    coverage = Coverage(pool, rows / len(files))
    return logged_report(pool, "metadata", rows, metadata_sizes(files, coverage), coverage.lacking())


def count_rows(files: Sequence[FeatureRows]) -> list[int]:
    """The rows of each file; a collective call, in which each rank opens its share."""
    return share_out(files, lambda file: file.num_rows())
