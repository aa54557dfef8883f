"""How many rows the files of a pool have, found by all ranks together: none opens all of them."""

from __future__ import annotations

from collections.abc import Sequence

from clipsift_common.distributed import gather_objects, rank, world_size
from selection.features.files import FeatureRows


def count_rows(files: Sequence[FeatureRows]) -> list[int]:
    """The rows of each file; a collective call, in which each rank opens its share."""
    shares = gather_objects([file.num_rows() for file in files[rank() :: world_size()]])
    return [shares[number % world_size()][number // world_size()] for number in range(len(files))]
