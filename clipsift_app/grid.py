"""Several recipes for several seeds in one process: what they share is made once, and one table ends it."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from clipsift_app.config_files import find_config
from clipsift_app.includes import read_config, with_includes
from clipsift_app.parsing import parse_run
from clipsift_app.provenance import begin
from clipsift_app.report.comparison import build_comparison_page
from clipsift_app.report.rows import compare
from clipsift_app.report.tables import format_comparison
from clipsift_app.stages import open_index, reproduce
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from clipsift_common.machine import Machine
from clipsift_common.progress import make_console

logger = logging.getLogger("clipsift")

_LISTS = ("--recipes", "--seeds")


@dataclass(frozen=True)
class Cell:
    """One run of a grid: its recipe's name, its seed, and the arguments of ``reproduce``."""

    recipe: str
    seed: int
    arguments: list[str]


def is_grid(arguments: Sequence[str]) -> bool:
    """Whether the arguments of ``reproduce`` ask for several runs."""
    return any(word.split("=")[0] in _LISTS for word in arguments)


def run_grid(arguments: list[str]) -> Path:
    """``reproduce --recipes FILE ... --seeds N ... --out DIR``: a run in ``DIR/RECIPE/seedN`` for each, then one page.

    The settings are those of the other arguments, and the recipe's where it has any, but for what the command line
    says. ``DIR/cache`` is shared: index, features, teachers, scores. Started again, it resumes with what is not
    complete. Returns the page that compares them.

    Raises:
        ClipsiftError: for any run's settings, before the first one starts.
    """
    lists, rest = _take_lists(arguments)
    cells = _cells(lists["--recipes"], lists["--seeds"], rest)
    runs = [parse_run(cell.arguments) for cell in cells]
    machine = runs[0].machine
    for run in runs:
        if run.machine != machine:
            raise ClipsiftError(f"recipes: {run.name} has another trainer than {runs[0].name}; give it once, for all")
    out = runs[0].out.parents[1]
    folders = run_cells(cells, launch(machine))
    index = open_index(runs[0].candidates(), runs[0].cache)
    truth = Path(runs[0].truth) if runs[0].truth else None
    page = on_rank_zero(lambda: build_comparison_page(folders, out, index, truth))
    on_rank_zero(lambda: make_console().print(format_comparison(compare(folders)), soft_wrap=True))
    return page


def run_cells(cells: Sequence[Cell], machine: Machine) -> list[Path]:
    """Run the cells one after the other on the processes that were started; their run directories."""
    folders: list[Path] = []
    for number, cell in enumerate(cells, start=1):
        run = replace(parse_run(cell.arguments), machine=machine)
        logger.info("== %s, seed %d (%d of %d)", cell.recipe, cell.seed, number, len(cells))
        hold(run.out)
        on_rank_zero(partial(begin, run, "reproduce", cell.arguments))
        reproduce(run)
        folders.append(run.out)
    return folders


def _take_lists(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The words after ``--recipes`` and ``--seeds``, and all the other arguments."""
    lists: dict[str, list[str]] = {name: [] for name in _LISTS}
    rest: list[str] = []
    current: list[str] | None = None
    for word in arguments:
        name, equals, value = word.partition("=")
        if name in _LISTS:
            current = lists[name]
            current += value.strip("[]").replace(",", " ").split() if equals else []
        elif current is not None and not word.startswith("-"):
            current.append(word)
        else:
            current = None
            rest.append(word)
    return lists, rest


def _cells(recipes: list[str], seeds: list[str], rest: list[str]) -> list[Cell]:
    """Every recipe for every seed; the seed comes first, so that whole comparisons are there early."""
    for word in seeds:
        if not re.fullmatch(r"\d+", word):
            raise ClipsiftError(f"seeds: whole numbers such as --seeds 0 1 2, got {word}")
    rest = with_includes(rest)
    configs = [word for word in rest if word.startswith("--config=")]
    others = [word for word in rest if not word.startswith("--config=")]
    base = parse_run(rest)
    files = [_recipe_file(recipe) for recipe in recipes]
    named = {_name(file): [f"--config={file}"] for file in files} if files else {base.name: []}
    if len(named) < len(files):
        raise ClipsiftError("recipes: two of them have one name; set name in one of the files")
    cells = []
    for seed in dict.fromkeys(int(word) for word in seeds or [str(base.seed)]):
        for name, config in named.items():
            folder = base.out / name / f"seed{seed}"
            own = [f"--name={name}", f"--seed_everything={seed}", f"--out={folder}", f"--cache={base.cache}"]
            cells.append(Cell(name, seed, [*configs, *config, *others, *own]))
    return cells


def _recipe_file(recipe: str) -> Path:
    path = find_config(recipe)
    if path is None:
        raise ClipsiftError(f"recipes: {recipe} does not exist")
    return path


def _name(recipe: Path) -> str:
    """The name in a recipe's file, else the file's."""
    return str(read_config(recipe).get("name") or recipe.stem)
