"""A whole run in small: a pool, trusted shards, two evaluation tasks, a CLIP that trains in seconds."""

from __future__ import annotations

from pathlib import Path

import yaml

from helpers.evaluation_sets import write_random_task
from helpers.pools import write_pool
from helpers.tiny_clip import write_architecture

TRAINING = {"samples_seen": 160, "global_batch": 16}


def write_workspace(folder: Path) -> Path:
    """Pool, trusted shards, evaluation folder, model and config under ``folder``; returns the config."""
    write_pool(folder / "pool", {"00000000": 30, "00000001": 17, "00000002": 25})
    write_pool(folder / "trusted", {"00000000": 40}, start=1000)
    write_random_task(folder / "eval" / "wds_imagenet1k_test")
    write_random_task(folder / "eval" / "wds_vtab-dtd_test", num_classes=2)
    write_architecture(folder)
    config = {
        "pool": str(folder / "pool"),
        "trusted": str(folder / "trusted"),
        "eval": str(folder / "eval"),
        "model": {"model": str(folder / "tiny.json"), "lr": 1e-3, "warmup": 2},
        "data": TRAINING | {"workers": 1},
        "selection": {
            "teacher": {"model": str(folder / "tiny.json"), "train": TRAINING | {"warmup": 2}},
            "steps": [
                {"score": "s_cliploss", "keep": 0.7, "temperature": 0.07},
                {"score": "normsim", "target": "trusted", "p": "inf", "keep": 0.5},
            ],
            "embedding": {"batch_size": 8, "workers": 0},
        },
        "evaluation": {"batch_size": 4, "workers": 0},
        "trainer": {"accelerator": "cpu", "log_every_n_steps": 1},
        "checkpoint": {"steps": 3},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"
