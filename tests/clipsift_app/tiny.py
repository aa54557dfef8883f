"""A whole run in small: a pool, trusted shards, two evaluation tasks, a CLIP that trains in seconds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import yaml
from pools import picture, sample, write_pool, write_tar

REPOSITORY = Path(__file__).resolve().parents[2]
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
}
TRAINING = {"samples_seen": 160, "global_batch": 16}


def write_task(folder: Path, num_classes: int = 3, per_class: int = 5) -> None:
    """One zero-shot task in DataComp's layout, two shards."""
    folder.joinpath("test").mkdir(parents=True)
    folder.joinpath("classnames.txt").write_text("".join(f"thing {label}\n" for label in range(num_classes)))
    folder.joinpath("zeroshot_classification_templates.txt").write_text("a photo of a {c}\nthe {c}\n")
    folder.joinpath("test", "nshards.txt").write_text("2")
    labels = [number % num_classes for number in range(num_classes * per_class)]
    half = len(labels) // 2
    for shard, part in enumerate((labels[:half], labels[half:])):
        members = []
        for position, label in enumerate(part):
            key = f"s{shard * half + position:07d}"
            members += [(f"{key}.cls", str(label).encode()), (f"{key}.jpg", picture(500 + shard * half + position))]
        write_tar(folder / "test" / f"{shard}.tar", members)


def write_workspace(folder: Path) -> Path:
    """Pool, trusted shards, evaluation folder, model and config under ``folder``; returns the config."""
    write_pool(folder / "pool", {"00000000": 30, "00000001": 17, "00000002": 25})
    write_pool(folder / "trusted", {"00000000": 40}, start=1000)
    write_task(folder / "eval" / "wds_imagenet1k_test")
    write_task(folder / "eval" / "wds_vtab-dtd_test", num_classes=2)
    (folder / "tiny.json").write_text(json.dumps(ARCHITECTURE))
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


def environment() -> dict[str, str]:
    """This process's, without what a launcher left in it; one thread each, since the tests' processes share cores."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("LT_", "SLURM_"))}
    for name in ("WORLD_SIZE", "LOCAL_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_WORLD_SIZE"):
        inherited.pop(name, None)
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(arguments: list[str], launcher: list[str] | None = None) -> subprocess.Popen[str]:
    """The program in a process of its own, in its own session so that it can be killed whole."""
    command = [*(launcher or [sys.executable]), str(REPOSITORY / "clipsift.py"), *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True)


def run(arguments: list[str], launcher: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    process = start(arguments, launcher)
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL, for the program and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def spoiled(path: Path) -> None:
    """Add one of each damage to a pool's first shard."""
    extra = sample("broken", 900, jpg=picture(900)[:250]) + sample("silent", 901, txt=None)
    shard = sorted((path / "shards").glob("*.tar"))[0]
    members = [member for number in range(1, 31) for member in sample(f"0{number:04d}", number)]
    write_tar(shard, [*members, *extra, *sample("00003", 902), ("00003.pkl", b"\x80\x04.")])
