"""A grid of recipes and seeds against the same runs one by one: ``python benchmarks/grid.py``.

Both are the demo's recipes on the demo's data, drawn once, each run with its own teacher trained in place. One by one
every run is a start of the program with a cache of its own, as someone has who does not know that runs can share one;
``--shared`` gives them the grid's cache, so that only the starts are saved. The last line gives the ratios of the times
by the clock, and of the processors' times, which other programs disturb less.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this folder would hide the packages

from benchmarks.measure import describe_machine
from clipsift_app.config_files import CONFIGS
from clipsift_app.demo.data import make_demo_data
from clipsift_app.demo.run import RECIPES, SIZES


def reproduce(arguments: list[str]) -> np.ndarray:
    """Seconds that the program takes: by the clock, and of all processors."""
    start, used = time.perf_counter(), _processor_seconds()
    subprocess.run([sys.executable, "-m", "clipsift", "reproduce", *arguments], check=True)
    return np.array([time.perf_counter() - start, _processor_seconds() - used])


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--samples-seen", type=int, default=2560)
    parser.add_argument("--teacher-samples", type=int, default=5120)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--shared", action="store_true")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_demo_data(folder / "data", 0, **SIZES[options.size])
        base = [f"--config={CONFIGS / 'demo/base.yaml'}", f"--data.samples_seen={options.samples_seen}"]
        base += [f"--selection.teacher.train.samples_seen={options.teacher_samples}"]
        base += ["--trainer.accelerator=cpu", f"--trainer.devices={options.devices}", f"--pool={folder / 'data/pool'}"]
        base += [f"--trusted={folder / 'data/trusted'}", f"--eval={folder / 'data/eval'}"]
        recipes = [str(CONFIGS / "demo" / f"{recipe}.yaml") for recipe in RECIPES]
        seeds = [str(seed) for seed in range(options.seeds)]
        lists = ["--recipes", *recipes, "--seeds", *seeds]
        together = reproduce([*base, f"--out={folder / 'grid'}", *lists])
        alone = np.zeros(2)
        for seed in seeds:
            for recipe in recipes:
                out = folder / "alone" / seed / Path(recipe).stem
                more = [f"--seed_everything={seed}", f"--out={out}"]
                more += [f"--cache={folder / 'alone/cache'}"] if options.shared else []
                alone += reproduce([*base, f"--config={recipe}", *more])
    print(f"{len(recipes)} recipes x {len(seeds)} seeds")
    for what, grid, single in zip(("clock", "processors"), together, alone):
        print(f"{what}: grid {grid:.1f} s, one by one {single:.1f} s, ratio {grid / single:.2f}")


if __name__ == "__main__":
    main()
