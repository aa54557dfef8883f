"""How large the files of a pool's metadata are, in bytes and in rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipsift_common.distributed import gather_objects, rank, world_size
from selection.features.files import FeatureFile, FeatureRows
from selection.pool.remote import size_of


def metadata_sizes(files: Sequence[FeatureFile]) -> Callable[[str], list[int]]:
    """Gives for a kind of file that is left out the bytes of those of ``files`` to compare it with."""

    def sizes(kind: str) -> list[int]:
        of_features = kind == "features_alone"
        return [
            sum(size_of(path) or 0 for path in (file.feature_files if of_features else [file.path])) for file in files
        ]

    return sizes


def count_rows(files: Sequence[FeatureRows]) -> list[int]:
    """The rows of each file; a collective call, in which each rank opens its share."""
    shares = gather_objects([file.num_rows() for file in files[rank() :: world_size()]])
    return [shares[number % world_size()][number // world_size()] for number in range(len(files))]
