"""Choosing from score columns: cuts, combinations, sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.scale.part import Part
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.stream import choose
from selection.uids import UID_DTYPE, uid_column

FILE_ROWS = 500_000  # as DataComp's metadata files


def score_files(columns: Sequence[str], rows: int, folder: Path) -> None:
    """Score files of random uids and standard normal scores."""
    for start in range(0, rows, FILE_ROWS):
        num, rng = min(FILE_ROWS, rows - start), np.random.default_rng(start)
        table = {"uid": uid_column(np.frombuffer(rng.bytes(16 * num), UID_DTYPE))}
        table |= {name: pa.array(rng.standard_normal(num, np.float32)) for name in columns}
        path = folder / f"{start // FILE_ROWS:06d}.parquet"
        pq.write_table(pa.table(table), path, use_dictionary=False, write_page_checksum=True)


def chosen(steps: Callable[[int], list[dict[str, Any]]], rows: int, folder: Path) -> str:
    """How many pairs a recipe keeps of the score files."""
    recipe = ParsedRecipe.parse(steps(rows))
    about = choose(sorted(folder.glob("*.parquet")), recipe, folder / "subset.npy")
    return f"{about['num_kept']:,} uids"


def top(rows: int) -> list[dict[str, Any]]:
    return [{"score": "random", "keep": 0.2}]


def part(columns: Sequence[str], steps: Callable[[int], list[dict[str, Any]]], processes: int) -> Part:
    sizes = (1_000_000, 3_000_000, 10_000_000)
    return Part(partial(score_files, columns), partial(chosen, steps), sizes, processes)


def top_of_rank_sum(rows: int) -> list[dict[str, Any]]:
    of = [{"score": "random", "name": name} for name in ("a", "b")]
    return [{"score": "rank_sum", "of": of, "keep": 0.2}]


def soft_caps(rows: int) -> list[dict[str, Any]]:
    """As many draws as rows, in a thousand batches, as the paper's 128 M in 1,280."""
    method = {"method": "soft_cap_sampling", "count": rows, "batch_size": rows // 1000, "alpha": 0.15}
    return [method | {"of": {"score": "random"}}]


def hard_caps(rows: int) -> list[dict[str, Any]]:
    return [{"method": "hard_cap_sampling", "count": rows, "cap": 15, "of": {"score": "random"}}]


PARTS = {
    "top": part(["random"], top, 2),
    "rank_sum": part(["a", "b"], top_of_rank_sum, 2),
    "soft_caps": part(["random"], soft_caps, 1),
    "hard_caps": part(["random"], hard_caps, 1),
}
