"""May a teacher compute in 16 bits? ``python benchmarks/precision.py [--config FILE --pool DIR ...] [--trusted DIR]``.

Embeds a pool in float32 and in each 16-bit precision, selects by each score at several fractions, and counts how much
of the float32 subset the other one has. A precision is good enough to be a default where that is 99.5 % or more of
every subset at temperature 0.01. The arguments are those of ``clipsift select``, so that any teacher and pool can be
judged; without them the demo's pool and its teacher, trained in place. What was embedded is not embedded again.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # else this file would hide the package of its name

from benchmarks.measure import describe_machine
from clipsift_app.config_files import CONFIGS
from clipsift_app.demo.data import make_demo_data
from clipsift_app.demo.run import SIZES
from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_app.stages import load_teacher
from clipsift_common.clip import LoadedCLIP
from clipsift_common.launch import launch
from clipsift_common.machine import Machine, device_of, num_workers
from selection.features.embed import embed
from selection.features.files import FeatureFile
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.recipe.top import keep_top
from selection.scores.clip_score import clip_score
from selection.scores.s_cliploss import s_cliploss

HALVES = ("bf16-mixed", "16-mixed")
ENOUGH = 0.995
KEEPS = (0.1, 0.2, 0.3, 0.5)
SCORES: dict[str, Callable[..., torch.Tensor]] = {
    "CLIPScore": clip_score,
    "s-CLIPLoss at 0.01": partial(s_cliploss, temperature=0.01),
}


def overlaps(
    clip: LoadedCLIP, index: PoolIndex, folder: Path, machine: Machine, workers: int, precision: str
) -> dict[str, float]:
    """By score and fraction: the share of the float32 subset that the subset of ``precision`` has, in [0, 1]."""
    device, scores = device_of(machine), list[dict[str, np.ndarray]]()
    for name in ("32-true", precision):
        files, _ = embed(index, clip, folder / name, "x", machine, workers=workers, precision=name)
        image, text = (_joined(files, tower).to(device) for tower in ("image", "text"))
        scores.append({score: function(image, text).cpu().numpy() for score, function in SCORES.items()})
    uids, found = np.concatenate([file.uids() for file in files]), {}
    for score in SCORES:
        for keep in KEEPS:
            count = int(keep * len(uids))
            exact, other = (keep_top(values[score], uids, count) for values in scores)
            found[f"{score}, keep {keep}"] = float((exact & other).sum() / count)
    return found


def verdict(found: dict[str, float]) -> tuple[float, str]:
    """The least of the overlaps, and what follows from it."""
    least = min(found.values())
    return least, "may be the default" if least >= ENOUGH else "stays an option"


def _joined(files: list[FeatureFile], tower: str) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([getattr(file, tower)() for file in files]))


def demo_arguments(out: Path, seed: int, **sizes: int) -> list[str]:
    """Arguments of ``select`` for the demo's own pool and teacher, made under ``out``."""
    make_demo_data(out / "data", seed, **sizes)
    places = [f"--{name}={out / 'data' / name}" for name in ("pool", "trusted")]
    return [f"--config={CONFIGS / 'demo/base.yaml'}", *places, f"--out={out}", f"--seed_everything={seed}"]


def judged(run: RunSettings) -> Iterator[tuple[str, dict[str, float]]]:
    """Each 16-bit precision with its overlaps, by the run's pool and teacher."""
    machine = launch(run.machine)
    workers = num_workers(run.selection.embedding.workers, machine)
    index = PoolIndex.build(Pool(run.pool), run.cache, workers)
    assert run.selection.teacher is not None
    clip = load_teacher(run, run.selection.teacher)
    for precision in HALVES[: 1 if device_of(machine).type == "cpu" else 2]:  # a CPU has no fp16
        yield precision, overlaps(clip, index, run.out / "features", machine, workers, precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("build/precision"))
    parser.add_argument("--seed", type=int, default=0)
    options, arguments = parser.parse_known_args()
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
    out = options.out.absolute()
    arguments = [*arguments, f"--out={out}"] if arguments else demo_arguments(out, options.seed, **SIZES["full"])
    print(describe_machine())
    for precision, found in judged(parse_run(arguments, needs_eval=False, trains=False)):
        for name, overlap in found.items():
            print(f"{precision:10} {name}: {overlap:.2%} of the float32 subset")
        least, follows = verdict(found)
        print(f"{precision:10} at least {least:.2%}, {ENOUGH:.1%} asked for: {follows}")


if __name__ == "__main__":
    main()
