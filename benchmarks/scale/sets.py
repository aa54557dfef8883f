"""Choosing sets by features: SemDeDup, ClipCov, VAS-D over metadata files, as a selection has them; 64 dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.scale.part import Part
from clipsift_common.distributed import gather_objects, rank, world_size
from selection.features.files import FeatureFile, write_feature_file
from selection.methods.semdedup import ROWS_PER_CLUSTER, semdedup
from selection.recipe.gather import PoolFeatures
from selection.recipe.step import Step
from selection.uids import UID_DTYPE

FILE_ROWS, WIDTH, CLASSES = 50_000, 64, 100


def feature_files(rows: int, folder: Path) -> None:
    """Pairs around 2,000 centres of very different sizes, in files; classes' texts."""
    centres = _unit(np.random.default_rng(0).standard_normal((2_000, WIDTH)) + 0.5)
    np.save(folder / "classes.npy", centres[:CLASSES].astype(np.float32))
    sizes = 1 / np.arange(1, len(centres) + 1) ** 0.5
    for start in range(0, rows, FILE_ROWS):
        num, rng = min(FILE_ROWS, rows - start), np.random.default_rng([1, start])
        near = centres[rng.choice(len(centres), num, p=sizes / sizes.sum())]
        towers = [_unit(near + 0.1 * rng.standard_normal((num, WIDTH))).astype(np.float16) for _ in "ab"]
        towers[0][1::10] = towers[0][:-1:10]  # every tenth image twice
        uids = np.frombuffer(rng.bytes(16 * num), UID_DTYPE)
        write_feature_file(folder / "metadata", "x", f"{start // FILE_ROWS:06d}", uids, [""] * num, *towers)


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def chosen(settings: Mapping[str, Any], rows: int, folder: Path) -> str:
    """How many of the pairs a set method keeps, all of them left before it."""
    files = [FeatureFile(str(path), "x") for path in sorted((folder / "metadata").glob("*.parquet"))]
    masks = {number: np.ones(files[number].num_rows(), bool) for number in range(rank(), len(files), world_size())}
    classes = torch.from_numpy(np.load(folder / "classes.npy"))
    features = PoolFeatures(files, torch.device("cpu"), lambda _: classes, folder)
    kept = features.kept_rows(Step.parse(0, dict(settings)), masks, rows, seed=0)
    features.close()
    return f"{sum(gather_objects(sum(map(len, kept.values())))):,} kept"


def labelled(rows: int, folder: Path) -> None:
    """Rows of made-up clusters, as many for each as SemDeDup has by default."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, max(1, rows // ROWS_PER_CLUSTER), rows)
    centres = _unit(rng.standard_normal((labels.max() + 1, WIDTH)))
    np.save(folder / "labels.npy", labels)
    np.save(folder / "rows.npy", _unit(centres[labels] + 0.1 * rng.standard_normal((rows, WIDTH))).astype(np.float16))


def compared(rows: int, folder: Path) -> str:
    """SemDeDup's comparison of the pairs of each cluster."""
    features, labels = (torch.from_numpy(np.load(folder / f"{name}.npy")) for name in ("rows", "labels"))
    return f"{int(semdedup(features, labels, 0.05).sum()):,} kept"


def part(settings: Mapping[str, Any], sizes: tuple[int, ...]) -> Part:
    return Part(feature_files, partial(chosen, settings), sizes, 2)


PARTS = {
    "semdedup": part({"method": "semdedup", "epsilon": 0.05}, (200_000, 400_000, 800_000, 2_000_000)),
    "semdedup, pairs": Part(labelled, compared, (100_000, 300_000, 1_000_000)),
    "clipcov": part({"method": "clipcov", "classes": "c", "keep": 0.1}, (50_000, 100_000, 200_000, 500_000)),
    "vas_d": part({"method": "vas_d", "keep": 0.3, "steps": 500}, (50_000, 100_000, 200_000, 500_000)),
}
