"""Part 4: the program as a user starts it: the same subset as on the CPU, signals, and the options of training."""

from __future__ import annotations

import csv
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.rows import Row, at_least, at_most, holds, measured
from clipsift_app.demo.data import make_demo_data
from clipsift_common.files import read_json
from selection.overlap import jaccard, overlaps
from selection.subset import Subset

LARGE = {"pool_size": 8000, "trusted_size": 2000, "eval_size": 1000}
SMALL = {"pool_size": 240, "trusted_size": 80, "eval_size": 40}
SHORT = ["--data.samples_seen=1280", "--selection.teacher.train.samples_seen=1280"]
OPTIONS = {
    "accumulation": ["--model.accumulate=2"],
    "moving average": ["--model.ema=0.9"],
    "clipping": ["--trainer.gradient_clip_val=1.0"],
    "fp16": ["--trainer.precision=16-mixed"],
    "bf16": ["--trainer.precision=bf16-mixed"],
    "compile": ["--model.compile=true"],
    "online": ["--selection.steps=[]", "--online.steps=[{score: clip_score, keep: 0.5}]"],
}
TEACHER = "--online.teacher={model: model/demo.json, train: {samples_seen: 1280, global_batch: 64}}"


def run(small: bool, folder: Path) -> Iterator[Row]:
    device = "cpu" if small else "gpu"
    make_demo_data(folder / "data", 0, **(SMALL if small else LARGE))
    short = SHORT if small else []
    started = {place: _start("reproduce", folder, place, place, short) for place in dict.fromkeys((device, "cpu"))}
    for place, process in started.items():  # side by side: the CPU's takes longest
        status = process.wait(timeout=450)
        yield holds(f"reproduce on the {place} ends with status 0", status == 0, str(status))
    yield from _agreement(folder, device, small)
    yield from _signals(folder, device, short)
    for name, more in OPTIONS.items():
        if small and name == "fp16":
            continue  # which a CPU has not
        teacher = [TEACHER] if name == "online" else []
        status = _clipsift("fit", folder, device, name.replace(" ", "_"), [*SHORT, *more, *teacher])
        losses = _losses(folder / name.replace(" ", "_")) if status == 0 else []
        good = status == 0 and len(losses) > 0 and all(map(math.isfinite, losses))
        yield holds(f"fit with {name}", good, f"status {status}, last loss {losses[-1] if losses else 'none'}")


def _agreement(folder: Path, device: str, small: bool) -> Iterator[Row]:
    """The same teacher selects the same on both; teachers trained on both lead to about the same accuracy."""
    (teacher,) = (folder / "cache-cpu" / "teacher").glob("*/training/model")
    by_cpus = ["--selection.teacher={model: " + str(teacher.absolute()) + ", pretrained: null, train: null}"]
    status = _clipsift("select", folder, device, "by_cpus_teacher", by_cpus)
    yield holds(f"select on the {device} with the CPU's teacher ends with status 0", status == 0, str(status))
    runs = [folder / name / "selection/subset.npy" for name in ("by_cpus_teacher", "cpu", device)]
    shared = jaccard(overlaps([Subset.load(path) for path in runs]))
    yield at_least("subsets by one teacher, Jaccard", float(shared[0, 1]), 0.99)
    yield measured("subsets by a teacher of each, Jaccard", float(shared[1, 2]))
    means = [_mean(folder / place) for place in (device, "cpu")]
    yield at_most("difference of mean accuracy, points", 100 * abs(means[0] - means[1]), 0 if small else 5)


def _signals(folder: Path, device: str, short: list[str]) -> Iterator[Row]:
    """Told to stop in the middle of training, then started again."""
    more = [*short, "--checkpoint.steps=2"]
    status = _clipsift("fit", folder, device, "whole", more)
    yield holds("an uninterrupted fit", status == 0, str(status))
    shutil.rmtree(folder / "stopped", ignore_errors=True)  # of a start of this part that was stopped itself
    process = _start("fit", folder, device, "stopped", more)
    checkpoint = folder / "stopped" / "training" / "last.ckpt"
    while process.poll() is None and not checkpoint.is_file():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=300)
    yield holds("SIGTERM in training ends with status 75", status == 75, str(status))
    done = len(_losses(folder / "stopped"))
    status = _clipsift("fit", folder, device, "stopped", more)
    whole, resumed = _losses(folder / "whole"), _losses(folder / "stopped")
    yield holds("the same command resumes and ends", status == 0 and len(resumed) == len(whole), str(status))
    # Equal on a CPU; a GPU adds up in whatever order its threads come, which training enlarges step by step.
    after = [abs(one - other) for one, other in zip(whole, resumed)][: done + 20]
    yield at_most("largest difference of a loss, up to 20 steps after it", max(after), 0 if device == "cpu" else 0.02)


def _start(verb: str, folder: Path, device: str, name: str, more: list[str]) -> subprocess.Popen[str]:
    data = folder / "data"
    places = [f"--pool={data / 'pool'}", f"--trusted={data / 'trusted'}", f"--eval={data / 'eval'}"]
    places += [f"--out={folder / name}", f"--cache={folder / f'cache-{device}'}", "--trainer.devices=1"]
    configs = ["--config=demo/base", "--config=demo/s_cliploss", f"--trainer.accelerator={device}"]
    command = [sys.executable, "-m", "clipsift", verb, *configs, *places, "--trainer.log_every_n_steps=1", *more]
    with open(folder / f"{name}.log", "w", encoding="utf-8") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, text=True)


def _clipsift(verb: str, folder: Path, device: str, name: str, more: list[str]) -> int:
    return _start(verb, folder, device, name, more).wait(timeout=450)


def _losses(run_directory: Path) -> list[float]:
    with open(run_directory / "training" / "metrics.csv", newline="", encoding="utf-8") as handle:
        return [float(row["loss"]) for row in csv.DictReader(handle)]


def _mean(run_directory: Path) -> float:
    tasks = read_json(run_directory / "evaluation/summary.json")["tasks"]
    results = [task["main_metric"] for task in tasks if task.get("main_metric") is not None]
    return sum(results) / len(results)
