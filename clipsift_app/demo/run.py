"""The demo: ``reproduce`` on a pool that it draws itself, for four recipes at equal samples seen, then one table."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.table import Table

from clipsift_app.config_files import CONFIGS
from clipsift_app.demo.data import make_demo_data
from clipsift_app.grid import Cell, run_cells
from clipsift_app.report.comparison import build_comparison_page
from clipsift_app.report.rows import compare
from clipsift_app.report.tables import format_comparison
from clipsift_app.report.truth import kind_shares
from clipsift_app.stages import open_index
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from clipsift_common.machine import Machine
from clipsift_common.progress import format_duration, make_console, say
from selection.pool.location import Pool

logger = logging.getLogger("clipsift")

RECIPES = ("none", "clip_score", "s_cliploss", "s_cliploss_normsim")

# Pairs in the pool, trusted pairs, pictures per task; and what ``small`` changes in base.yaml: it shows that
# everything works, not that selection helps.
SIZES: dict[str, dict[str, int]] = {
    "full": {"pool_size": 8000, "trusted_size": 2000, "eval_size": 1000},
    "small": {"pool_size": 1200, "trusted_size": 400, "eval_size": 200},
}
SMALL = ("--data.samples_seen=5120", "--selection.teacher.train.samples_seen=10240")


@dataclass
class DemoSettings:
    """Where the demo goes, how many seeds it runs (each draws other data and another start), and its size.

    ``devices`` is the number of processes on the CPU; the launch's, under ``fabric run`` or torchrun.
    """

    out: str = "demo"
    seeds: int = 1
    first_seed: int = 0
    size: Literal["full", "small"] = "full"
    devices: int | Literal["auto"] = 2
    accelerator: str = "cpu"

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ClipsiftError(f"seeds: at least 1, got {self.seeds}")


def run_demo(settings: DemoSettings) -> None:
    """Draw the data, run every recipe for every seed, print the table, write the page."""
    start = time.monotonic()
    machine = launch(Machine(accelerator=settings.accelerator, devices=settings.devices))
    out = Path(settings.out).absolute()
    hold(out)
    cells: list[Cell] = []
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        folder = out / f"seed{seed}"
        logger.info("drawing pool, trusted pairs and evaluation tasks of seed %d ...", seed)
        on_rank_zero(partial(make_demo_data, folder / "data", seed, **SIZES[settings.size]))
        cells += [Cell(recipe, seed, _arguments(folder, recipe, seed, settings.size)) for recipe in RECIPES]
    runs = run_cells(cells, machine)
    first = out / f"seed{settings.first_seed}"
    index = open_index(Pool.shared(str(first / "data" / "pool")), first / "cache")
    page = on_rank_zero(lambda: build_comparison_page(runs, out, index, first / "data" / "truth.parquet"))
    on_rank_zero(lambda: _show(runs, first, settings.size))
    say(f"{len(runs)} runs in {format_duration(time.monotonic() - start)}; page: {page}")


def _arguments(folder: Path, recipe: str, seed: int, size: str) -> list[str]:
    """Of ``reproduce``: each seed has its own data, so its runs share a cache of their own."""
    data = folder / "data"
    arguments = [f"--config={CONFIGS}/demo/base.yaml", f"--config={CONFIGS}/demo/{recipe}.yaml"]
    arguments += [f"--pool={data / 'pool'}", f"--trusted={data / 'trusted'}", f"--eval={data / 'eval'}"]
    arguments += [f"--truth={data / 'truth.parquet'}", f"--out={folder / recipe}", f"--cache={folder / 'cache'}"]
    return [*arguments, f"--seed_everything={seed}", *(SMALL if size == "small" else ())]


def _show(runs: list[Path], first: Path, size: str) -> None:
    """Print the tables; ``first`` is the folder of the first seed."""
    console = make_console()
    console.print(format_comparison(compare(runs), "table"))
    console.print(_kinds_table(first, first / "data" / "truth.parquet"))
    if size == "small":
        console.print("small demo: it shows that everything works; run the full one to see that selection helps")


def _kinds_table(folder: Path, truth: Path) -> Table:
    """What each recipe kept of each kind of pair, for one seed."""
    shares = {recipe: kind_shares(folder / recipe, truth) for recipe in RECIPES}
    kinds = sorted({kind for values in shares.values() for kind in values}, key=lambda kind: (kind != "good", kind))
    table = Table(title=f"share kept of each kind of pair ({folder.name})")
    table.add_column("recipe")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for recipe, values in shares.items():
        table.add_row(recipe, *(f"{values.get(kind, 0):.0%}" for kind in kinds))
    return table
