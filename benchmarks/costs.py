"""What each stage costs at DataComp's scales, as the tables of docs/scale.md: ``python benchmarks/costs.py``.

Operations follow from the architectures and the formulas, bytes from the formats. Hours are theirs divided by
:data:`benchmarks.flops.ASSUMED_SPEED`: nothing here is a measurement.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this folder would hide the packages

from benchmarks.flops import ASSUMED_SPEED, tower_flops, training_flops
from clipsift_app.config_files import CONFIGS
from clipsift_app.doctor.disk import num_parameters
from clipsift_app.doctor.finding import size
from evaluation.tasks import TASKS
from selection.pool.volumes.volume import STORED
from selection.uids import UID_DTYPE

POOLS = {"small": 12.8e6, "medium": 128e6, "large": 1.28e9, "xlarge": 12.8e9}  # pairs
TEACHER, WIDTH = "ViT-L-14", 768
KEPT = 0.2  # of the pool, by the paper's recipe
TARGET = 1_281_167  # ImageNet-1k's train images
BATCH, NUM_BATCHES = 32768, 10  # of s-CLIPLoss
UID_BYTES = 36  # in a parquet file


def config(scale: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / "scale" / f"{scale}.yaml").read_text())


def train(scale: str) -> float:
    values = config(scale)
    model = values["model"]
    return training_flops(model["model"], values["data"]["samples_seen"], model.get("grad_checkpointing", False))


def evaluate(scale: str) -> float:
    """All images of the 40 tasks; class prompts, encoded once, are left out."""
    return sum(task.size for task in TASKS.values()) * tower_flops(config(scale)["model"]["model"])[0]


# Operations of each stage.
STAGES: dict[str, Callable[[str], float]] = {
    "embed, OpenAI L/14": lambda scale: POOLS[scale] * sum(tower_flops(TEACHER)),
    "s-CLIPLoss, 10 batches of 32,768": lambda scale: POOLS[scale] * 2 * WIDTH * BATCH * NUM_BATCHES,
    "NormSim_inf, ImageNet": lambda scale: POOLS[scale] * 2 * WIDTH * TARGET,
    "NormSim_2, VAS": lambda scale: POOLS[scale] * 2 * WIDTH**2,
    "train": train,
    "evaluate": evaluate,
}
# Bytes of each file.
FILES: dict[str, Callable[[str], float]] = {
    "index": lambda scale: POOLS[scale] * (STORED.itemsize + UID_DTYPE.itemsize + 4),
    "features of one teacher": lambda scale: POOLS[scale] * (2 * WIDTH * 2 + UID_BYTES),
    "one score column, kept twice": lambda scale: 2 * POOLS[scale] * (UID_BYTES + 4),
    "subset file": lambda scale: 16 * KEPT * POOLS[scale],
    "two checkpoints and the weights": lambda scale: 28 * num_parameters(config(scale)["model"]["model"]),
}


def hours(flops: float) -> str:
    """GPU-hours at the assumed speed."""
    value = flops / ASSUMED_SPEED / 3600
    return f"{value:,.0f} h" if value >= 10 else f"{value:.2g} h" if value >= 0.02 else f"{value * 3600:.2g} s"


def table(title: str, rows: dict[str, Callable[[str], float]], show: Callable[[float], str]) -> list[str]:
    """A Markdown table: a row for each entry, a column for each scale."""
    lines = [f"| {title} | {' | '.join(POOLS)} |", "|---|" + "---:|" * len(POOLS)]
    for name, cost in rows.items():
        lines.append(f"| {name} | {' | '.join(show(cost(scale)) for scale in POOLS)} |")
    return lines


def tables() -> list[list[str]]:
    """Operations, hours of one GPU, bytes."""
    return [
        table("operations", STAGES, lambda flops: f"{flops:.1e}"),
        table("hours of one GPU", STAGES, hours),
        table("bytes", FILES, size),
    ]


def main() -> None:
    for lines in tables():
        print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    main()
