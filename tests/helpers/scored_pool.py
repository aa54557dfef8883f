"""A pool of small metadata files with features, a target, and a recipe of scores that depend on blocks and seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.engines.base import GROUP, Group
from clipsift_common.engines.on_ray import Ray
from clipsift_common.machine import Machine
from helpers.features import unit_array
from selection.features.files import write_feature_file
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Selection
from selection.uids import parse_uids

SIZES = (40, 7, 90, 1, 55, 23, 64, 30, 31, 12, 80, 5, 44, 33, 70)
BLOCK_ROWS = 30  # so that blocks have several files, and there are several blocks


def write_scored_pool(folder: Path, sizes: tuple[int, ...] = SIZES) -> Path:
    """``folder/pool/metadata`` with features ``l14`` and the target ``folder/target.npy``; one row is not finite."""
    rng = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    np.save(folder / "target.npy", unit_array(rng, 30, 8))
    first = 1
    for number, count in enumerate(sizes):
        image, text = unit_array(rng, count, 8), unit_array(rng, count, 8)
        image[count // 2] = np.nan if number == 2 else image[count // 2]
        uids = parse_uids([f"{uid:x}" for uid in range(first, first + count)])
        captions = [f"caption {uid}" for uid in range(first, first + count)]
        write_feature_file(folder / "pool" / "metadata", "l14", f"{number:04d}", uids, captions, image, text)
        first += count
    return folder / "pool"


def steps(folder: Path) -> list[dict[str, Any]]:
    return [
        {"score": "s_cliploss", "keep": 0.8, "temperature": 0.07, "batch_size": 16, "num_batches": 3},
        {"score": "normsim", "p": "inf", "target": str(folder / "target.npy"), "keep": 0.5},
        {"score": "rank_sum", "of": [{"score": "clip_score"}, {"score": "random"}], "keep": 0.3},
    ]


def selector(folder: Path, out: str, engine: Group | Ray = GROUP, seed: int = 3, **changes: Any) -> Selector:
    """Of the recipe on the pool in ``folder``, with its run directory and cache under ``folder/out``."""
    selection = Selection(**{"features": "l14", "steps": steps(folder)} | changes)
    machine, place = Machine(accelerator="cpu", devices=1), folder / out
    pool = Pool(str(folder / "pool"))
    return Selector(selection, pool, place, place / "cache", seed, machine, max_loss=0.1, engine=engine)


def results(folder: Path, out: str) -> dict[str, bytes]:
    """The score and subset files of a run, by path."""
    root = folder / out / "selection"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("scores/*.parquet")}
    return found | {"subset.npy": (root / "subset.npy").read_bytes()}
