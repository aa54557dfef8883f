"""Selecting while training beside selecting before it: ``python benchmarks/online.py --out DIR``.

On the demo's data, or on others: ``--config FILE --pool DIR --trusted DIR --eval DIR --truth FILE``. Three runs of the
same model at equal samples seen, with the config's own teacher: all pairs; the offline subset of a score's best; the
best of each super-batch by the same score, online. Printed: how far the two selections agree, what
each costs, and the accuracy that comes out. Runs are resumed, so the program may be stopped and started again.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.measure import describe_machine
from clipsift_app.demo.data import make_demo_data
from clipsift_app.demo.run import CONFIGS, SIZES
from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_app.stages import run_evaluate, run_fit, run_select
from clipsift_common.clip import load_clip
from clipsift_common.files import read_json
from clipsift_common.launch import launch
from selection.subset import Subset
from selection.uids import format_uids

DATA = {"pool": "pool", "trusted": "trusted", "eval": "eval", "truth": "truth.parquet"}


class Watch(L.Callback):
    """The uids that were trained on, and the seconds between the first and the last step."""

    def __init__(self) -> None:
        self.uids: list[np.ndarray] = []
        self.seconds, self.steps = 0.0, 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.uids:
            self._start = time.perf_counter()
        self.uids.append(batch["uid"].numpy().copy())
        self.steps, self.seconds = len(self.uids) - 1, time.perf_counter() - self._start


def settings(out: Path, name: str, options: argparse.Namespace) -> RunSettings:
    step = f"{{score: {options.score}, keep: {options.keep}, temperature: 0.07}}"
    if options.score != "s_cliploss":
        step = f"{{score: {options.score}, keep: {options.keep}}}"
    arguments = [f"--{key}={getattr(options, key)}" for key in ("config", *DATA) if key != "truth"]
    arguments += [f"--out={out / name}", f"--cache={out / 'cache'}", f"--name={name}"]
    arguments += [f"--seed_everything={options.seed}", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    arguments += [f"--selection.steps=[{step if name == 'offline' else ''}]"]
    if name == "online":
        teacher = parse_run([*arguments, "--selection.steps=[]"]).selection.teacher
        assert teacher is not None
        assert teacher.train is not None
        train = vars(teacher.train)
        arguments += [f"--online={{teacher: {{model: {teacher.model}, train: {train}}}, steps: [{step}]}}"]
    return parse_run(arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", default="online-benchmark")
    parser.add_argument("--score", default="s_cliploss", help="s_cliploss or clip_score")
    parser.add_argument("--keep", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=list(SIZES), default="full", help="of the demo's data")
    parser.add_argument("--config", default=CONFIGS / "demo/base.yaml", help="of a run, its selection.steps left out")
    for key in DATA:
        parser.add_argument(f"--{key}", help="as in reproduce; all four or none" if key == "pool" else None)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
    out = Path(options.out).absolute()
    if options.pool is None:
        make_demo_data(out / "data", options.seed, **SIZES[options.size])
        for key, name in DATA.items():
            setattr(options, key, out / "data" / name)
    launch(settings(out, "all", options).machine)
    print(describe_machine())
    prepared = time.perf_counter()
    subset = Subset.load(run_select(settings(out, "offline", options)))
    prepared = time.perf_counter() - prepared
    truth = pq.read_table(options.truth)
    kinds = dict(zip(truth.column("uid").to_pylist(), truth.column("kind").to_pylist()))
    trained: dict[str, set[str]] = {}
    for name in ("all", "offline", "online"):
        run, watch = settings(out, name, options), Watch()
        clip = load_clip(str(run_fit(run, [watch])), None)
        run_evaluate(clip, str(run.eval), run.out / "evaluation", run.evaluation, run.machine)
        score = read_json(run.out / "evaluation" / "summary.json")
        if not watch.uids:
            print(f"{name}: was complete; delete {run.out} to time it again. accuracy {_accuracy(score)}")
            continue
        uids = np.concatenate(watch.uids).view("u8,u8").reshape(-1)
        words = format_uids(uids)
        trained[name] = set(words)
        good = Counter(kinds[word] for word in words)["good"] / len(words)
        inside = (subset.multiplicity(uids) > 0).mean()
        cost = watch.seconds / watch.steps / run.data["global_batch"] * 1e3
        print(
            f"{name:8} {cost:.3f} ms per trained sample; {inside:.1%} of them in the offline subset, {good:.1%} good; "
            f"{len(trained[name]):,} distinct; accuracy {_accuracy(score)}"
        )
    print(f"before the offline training (teacher, features, scores, or what was left of it): {prepared:.1f} s")


def _accuracy(summary: dict[str, Any]) -> str:
    return f"{summary['mean_of_scored']:.4f} (mean of {summary['num_scored']} tasks)"


if __name__ == "__main__":
    torch.set_num_threads(1)  # the models are small
    main()
