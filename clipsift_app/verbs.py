"""The program's verbs: arguments in, stages run, exit status out."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from clipsift_app import stages
from clipsift_app.arguments import existing_file, parse_settings, say
from clipsift_app.demo import run as demo
from clipsift_app.doctor import run_doctor
from clipsift_app.grid import is_grid, run_grid
from clipsift_app.provenance import begin
from clipsift_app.report.page import QUANTILES
from clipsift_app.report.rows import compare
from clipsift_app.report.tables import FORMATS, format_comparison
from clipsift_app.settings import Evaluation, RunSettings, parse_run
from clipsift_app.tools import TOOLS
from clipsift_common.clip import load_clip
from clipsift_common.distributed import rank, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine, launch, quiet_libraries
from evaluation.data.download import download
from selection.features.embed import embed
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from training.data import PoolDataModule


def run_verb(verb: str, arguments: list[str]) -> int:
    """Run a verb; print what is wrong as one line. Returns the exit status."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("clipsift").setLevel(logging.INFO)
    quiet_libraries()
    try:
        _VERBS[verb](arguments)
    except ClipsiftError as error:
        print(f"clipsift: error: {_on_rank()}{error}", file=sys.stderr)
        return _end_all(1)
    except KeyboardInterrupt:
        return _end_all(130)
    except SystemExit as error:  # --help; a training that was told to stop and has saved
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if rank() > 0 and isinstance(error, RuntimeError) and "closed by peer" in str(error):
            print(f"clipsift: {_on_rank()}ended because another rank did", file=sys.stderr)
        else:
            traceback.print_exc()
        return _end_all(1)
    return 0


def _on_rank() -> str:
    return f"rank {rank()}: " if rank() > 0 else ""


def _end_all(status: int) -> int:
    """Leave at once when other ranks may be waiting in a collective; the launcher ends them when it sees us gone."""
    if world_size() > 1:
        sys.stderr.flush()
        os._exit(status)
    return status


def _start(verb: str, arguments: list[str], needs_eval: bool) -> RunSettings:
    """Settings, checked, on the processes they ask for; the resolved config saved, the start noted."""
    run = parse_run(arguments, needs_eval)
    run = replace(run, machine=launch(run.machine))
    PoolDataModule(**run.data).check_world(world_size())
    if rank() == 0:
        begin(run, verb, arguments)
    return run


def _reproduce(arguments: list[str]) -> None:
    if is_grid(arguments):
        return say(f"comparison: {run_grid(arguments)}")
    page = stages.reproduce(_start("reproduce", arguments, needs_eval=True))
    say(f"report: {page}")


def _select(arguments: list[str]) -> None:
    stages.run_select(_start("select", arguments, needs_eval=False))


def _fit(arguments: list[str]) -> None:
    model = stages.run_fit(_start("fit", arguments, needs_eval=False))
    say(f"model: {model}")


@dataclass
class _EvaluateSettings:
    """What to evaluate (a run, or a model and its weights), on what, and where; ``download``: fetch the tasks first."""

    data: str
    download: bool = False
    run: str | None = None
    model: str | None = None
    pretrained: str | None = None
    out: str | None = None
    tasks: str | None = None
    rules: Literal["leaderboard", "corrected"] = "leaderboard"
    precision: Literal["fp32", "amp"] = "fp32"
    batch_size: int = 256
    workers: int = 2
    trainer: Machine = field(default_factory=Machine)


def _evaluate(arguments: list[str]) -> None:
    settings = parse_settings(
        _EvaluateSettings, ["--download=true" if word == "--download" else word for word in arguments]
    )
    tasks = settings.tasks.split(",") if settings.tasks else []
    if settings.download and settings.run is None and settings.model is None:
        return download(tasks, settings.data)
    if (settings.run is None) == (settings.model is None):
        raise ClipsiftError("say either --run RUN_DIR or --model NAME_OR_JSON with --pretrained TAG_OR_FILE")
    if settings.run is not None:
        folder = Path(settings.run) / "training" / "model"
        if not folder.is_dir():
            raise ClipsiftError(
                f"{folder}: does not exist; clipsift fit --config {settings.run}/config.yaml finishes it"
            )
        model, out = str(folder), settings.out or f"{settings.run}/evaluation"
    else:
        model, out = str(settings.model), settings.out
    if out is None:
        raise ClipsiftError("--out is missing: the folder for eval_results.jsonl and summary.json")
    if settings.download:  # before there is a process group, which would not wait that long
        download(tasks, settings.data)
    if not Path(settings.data).is_dir():
        raise ClipsiftError(f"data: {settings.data} does not exist")
    machine = launch(settings.trainer)
    how = Evaluation(tasks, settings.rules, settings.precision, settings.batch_size, settings.workers)
    stages.run_evaluate(load_clip(model, settings.pretrained), settings.data, Path(out), how, machine)


@dataclass
class _ReportSettings:
    """Which run; the rest is taken from its config.yaml unless given.

    ``baseline`` is a run to show beside it; ``quantiles`` of each score, in [0, 1], whose pairs are shown.
    """

    run: str
    truth: str | None = None
    baseline: str | None = None
    quantiles: list[float] = field(default_factory=lambda: list(QUANTILES))


def _report(arguments: list[str]) -> None:
    settings = parse_settings(_ReportSettings, arguments, positional="run")
    run = parse_run(["--config", str(existing_file(Path(settings.run) / "config.yaml"))], needs_eval=False)
    how = {"baseline": Path(settings.baseline) if settings.baseline else None, "quantiles": settings.quantiles}
    say(f"report: {stages.run_report(Path(settings.run), run.pool, run.cache, settings.truth or run.truth, **how)}")


@dataclass
class _CompareSettings:
    """Which runs, against which recipe (by default the one that keeps most), and how to print them."""

    runs: list[str]
    baseline: str | None = None
    format: Literal["table", "markdown", "csv", "latex"] = "table"


def _compare(arguments: list[str]) -> None:
    split = next((i for i, word in enumerate(arguments) if word.startswith("--")), len(arguments))
    runs, rest = arguments[:split], arguments[split:]
    if not runs:
        raise ClipsiftError("compare: give the run directories first: clipsift compare RUN_DIR ... [--format FORMAT]")
    settings = parse_settings(_CompareSettings, [f"--runs={runs}", *rest])
    assert set(FORMATS) == {"table", "markdown", "csv", "latex"}
    print(format_comparison(compare([Path(run) for run in settings.runs], settings.baseline), settings.format))


@dataclass
class _EmbedSettings:
    """Which pool, with which model, to where. ``name`` prefixes the feature arrays: ``l14`` makes ``l14_img``."""

    pool: str
    model: str
    pretrained: str | None
    out: str
    name: str
    batch_size: int = 256
    workers: int = 2
    precision: str = "32-true"
    max_loss: float = 0.01
    trainer: Machine = field(default_factory=Machine)


def _embed(arguments: list[str]) -> None:
    settings = parse_settings(_EmbedSettings, arguments)
    pool = Pool(settings.pool)
    clip = load_clip(settings.model, settings.pretrained)
    machine = launch(settings.trainer)
    out = Path(settings.out)
    index = PoolIndex.build(pool, out / "cache", settings.workers, settings.max_loss)
    how: dict[str, Any] = {
        "batch_size": settings.batch_size,
        "workers": settings.workers,
        "precision": settings.precision,
    }
    files, report = embed(index, clip, out / "metadata", settings.name, machine, **how)
    report.merge(index.report).check(settings.max_loss)
    say(f"metadata: {len(files)} files in {out / 'metadata'}")


def _doctor(arguments: list[str]) -> None:
    if not run_doctor(arguments):
        raise SystemExit(1)


def _demo(arguments: list[str]) -> None:
    demo.run_demo(parse_settings(demo.DemoSettings, arguments))


_VERBS: dict[str, Callable[[list[str]], None]] = {
    "reproduce": _reproduce,
    "select": _select,
    "fit": _fit,
    "evaluate": _evaluate,
    "report": _report,
    "compare": _compare,
    "embed": _embed,
    "doctor": _doctor,
    "demo": _demo,
    **TOOLS,
}
