"""Run directories and a pool as the stages would leave them, made up but consistent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image, ImageDraw

from clipsift_common.files import array_fingerprint
from helpers.pictures import encode
from selection.pool.index import Sample
from selection.subset import Subset
from selection.uids import UID_DTYPE, format_uids, sort_key

KINDS = ("good", "mismatched", "generic", "text")
CAPTIONS = {
    "good": "a photo of a {colour} {shape}",
    "mismatched": "the {shape} of another picture & more",
    "generic": "picture for sale, free shipping",
    "text": "<script>alert(1)</script>",
}
COLOURS = ("firebrick", "steelblue", "goldenrod", "seagreen")
SHAPES = ("ellipse", "rectangle")
TASKS = (
    ("imagenet1k", "ImageNet 1k", 0.025),
    ("imagenetv2", "ImageNet v2", 0.025),
    ("vtab/cifar100", "CIFAR-100", 0.01),
    ("cifar10", "CIFAR-10", 0.1),
    ("retrieval/flickr", "Flickr", None),
)
NUM_TASKS = 38


class FakeIndex:
    """``find`` and ``read`` as ``selection.pool.index.PoolIndex`` has them."""

    def __init__(self, uids: np.ndarray, samples: list[Sample], kinds: list[str]) -> None:
        self.uids, self.samples, self.kinds = uids, samples, kinds

    def find(self, uids: np.ndarray) -> np.ndarray:
        rows = {key: row for row, key in enumerate(sort_key(self.uids).tolist())}
        return np.array([rows.get(key, -1) for key in sort_key(uids).tolist()], np.int64)

    def read(self, row: int) -> Sample:
        return self.samples[row]

    def write_truth(self, path: Path) -> Path:
        pq.write_table(pa.table({"uid": format_uids(self.uids), "kind": self.kinds}), path)
        return path


def make_index(size: int = 200, seed: int = 0) -> FakeIndex:
    """A pool of ``size`` pairs with real JPEG pictures; kinds take turns."""
    rng = np.random.default_rng(seed)
    halves = rng.integers(0, 2**63, (size, 2)).astype(np.uint64)
    uids = np.ascontiguousarray(halves).view(UID_DTYPE).reshape(-1)
    samples, kinds = [], []
    for row, uid in enumerate(format_uids(uids)):
        kind = KINDS[row % len(KINDS)]
        colour, shape = str(rng.choice(COLOURS)), str(rng.choice(SHAPES))
        caption = CAPTIONS[kind].format(colour=colour, shape=shape)
        samples.append(Sample(uid, "00000000", f"{row:08d}", _picture(colour, shape, rng), caption))
        kinds.append(kind)
    return FakeIndex(uids, samples, kinds)


def _picture(colour: str, shape: str, rng: np.random.Generator) -> bytes:
    image = Image.new("RGB", (48, 36), tuple(rng.integers(180, 256, 3).tolist()))
    box = (*rng.integers(2, 14, 2).tolist(), *rng.integers(22, 34, 2).tolist())
    getattr(ImageDraw.Draw(image), shape)(box, fill=colour)
    return encode(image, "JPEG")


def make_run(
    folder: Path,
    index: FakeIndex,
    *,
    name: str | None = "two_steps",
    seed: int = 0,
    keep: tuple[float, ...] = (0.4, 0.2),
    accuracy: float = 0.3,
    tasks: tuple[tuple[str, str, float | None], ...] = TASKS,
) -> Path:
    """A complete run: one score column per entry of ``keep`` (none: no filter), then training and evaluation.

    The scores like kind "good" best. The first task's main metric is ``accuracy``, each following one has 0.02 more.
    """
    config = {"seed_everything": seed, "pool": {"location": "/data/pool"}} | ({"name": name} if name else {})
    (folder / "selection").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    _write_selection(folder / "selection", index, seed, keep)
    _write_training(folder / "training", np.load(folder / "selection" / "subset.npy"), seed)
    entries = [(key, dataset, accuracy + 0.02 * place, chance) for place, (key, dataset, chance) in enumerate(tasks)]
    write_summary(folder / "evaluation", entries)
    return folder


def _write_selection(folder: Path, index: FakeIndex, seed: int, keep: tuple[float, ...]) -> None:
    rng, size = np.random.default_rng(seed), len(index.uids)
    worth = np.array([2.0 if kind == "good" else 0.0 for kind in index.kinds])
    columns = {f"score_{place}": (worth + rng.normal(size=size)).astype(np.float32) for place in range(len(keep))}
    alive, steps = np.ones(size, bool), []
    for (column, scores), share in zip(columns.items(), keep):
        number = round(share * size)
        order = np.argsort(np.where(alive, -scores, np.inf), kind="stable")
        alive = np.isin(np.arange(size), order[:number])
        threshold = float(scores[order[number - 1]])
        steps.append({"name": column, "score": column, "keep": share, "num_kept": number, "threshold": threshold})
    if columns:
        (folder / "scores").mkdir()
        for part, rows in enumerate(np.array_split(np.arange(size), 2)):  # two files, so that joining them is tested
            table = {"uid": format_uids(index.uids[rows])} | {name: scores[rows] for name, scores in columns.items()}
            pq.write_table(pa.table(table), folder / "scores" / f"{part:08d}.parquet")
    Subset(index.uids[alive]).save(folder / "subset.npy")
    about = {"recipe": {}, "num_pool": size, "num_kept": int(alive.sum()), "num_unique": int(alive.sum())}
    about |= {"steps": steps, "operations": [], "fingerprint": "5b5e7", "parents": {"features": "fea7"}, "seed": seed}
    (folder / "subset.json").write_text(json.dumps(about))
    lost = {"broken_image": 2}
    examples = {"broken_image": [{"shard": "00000000", "key": "00000007<b>", "detail": "OSError: <i>truncated</i>"}]}
    report = {"samples": size + 2, "num_lost": 2, "loss": 2 / (size + 2), "lost": lost, "ignored": {"pickle": 1}}
    (folder / "data_report.json").write_text(json.dumps(report | {"examples": examples}))


def _write_training(folder: Path, uids: np.ndarray, seed: int, steps: int = 120, batch: int = 64) -> None:
    folder.mkdir()
    rng = np.random.default_rng(seed)
    lines = ["step,loss,learning_rate,logit_scale,samples_seen,samples_per_second,data_wait"]
    for step in range(1, steps + 1):
        loss = 1.5 + 2.6 * np.exp(-step / 30) + rng.normal(0, 0.05)
        rate = 5e-4 * min(step / 20, 1)
        lines.append(f"{step},{loss},{rate},{14 + step / 40},{step * batch},{900 + 40 * rng.normal()},{0.04}")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    about: dict[str, Any] = {
        "steps": steps,
        "samples_seen": steps * batch,
        "global_batch": batch,
        "world_size": 1,
        "seconds": 9.5,
    }
    about |= {"subset": array_fingerprint(uids), "subset_size": len(uids), "weights": "3e16", "config": "c0f1"}
    (folder / "training.json").write_text(json.dumps(about))


def write_summary(folder: Path, entries: list[tuple[str, str, float, float | None]]) -> None:
    """``summary.json`` of (key, dataset, main metric, chance) entries; the average is there when they are 38."""
    folder.mkdir(parents=True, exist_ok=True)
    scores = {key: value for key, _, value, _ in entries}
    mean, complete = float(np.mean(list(scores.values()))), len(entries) == NUM_TASKS
    imagenet, shift = scores.get("imagenet1k"), scores.get("imagenetv2")
    summary = {
        "imagenet": imagenet,
        "groups": {"ImageNet": imagenet, "ImageNet dist. shifts": shift, "VTAB": None, "Retrieval": None},
        "average": mean if complete else None,
        "num_scored": len(entries),
        "missing": [f"vtab/missing_{number}" for number in range(NUM_TASKS - len(entries))],
        "mean_of_scored": mean,
        "rules": "leaderboard",
        "precision": "fp32",
        "weights": "3e16",
        "tasks": [
            {
                "key": key,
                "dataset": dataset,
                "main_metric_name": "acc1",
                "main_metric": value,
                "random": chance,
                "seconds": 1.0,
                "num_samples": 100,
            }
            for key, dataset, value, chance in entries
        ],
    }
    (folder / "summary.json").write_text(json.dumps(summary))
