"""The verb ``evaluate``: a run or a model on DataComp's tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from clipsift_app.settings import Evaluation
from clipsift_app.stages import load_result, run_evaluate
from clipsift_app.verb_settings import parse_settings
from clipsift_common.clip import load_clip
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.machine import Machine
from evaluation.data.download import download
from evaluation.rules import Precision, Rules


@dataclass
class EvaluateSettings:
    """What to evaluate (a run, or a model and its weights), on what, and where; ``download``: fetch the tasks first."""

    data: str
    download: bool = False
    run: str | None = None
    model: str | None = None
    pretrained: str | None = None
    out: str | None = None
    tasks: str | None = None
    rules: Rules = "leaderboard"
    precision: Precision = "fp32"
    batch_size: int = 256
    workers: int | None = None
    trainer: Machine = field(default_factory=Machine)


def run(arguments: list[str]) -> None:
    settings = parse_settings(
        EvaluateSettings, ["--download=true" if word == "--download" else word for word in arguments]
    )
    tasks = settings.tasks.split(",") if settings.tasks else []
    if settings.download and settings.run is None and settings.model is None:
        launch(Machine(accelerator="cpu"))  # a launcher may have started several: one of them fetches
        return on_rank_zero(partial(download, tasks, settings.data))
    if (settings.run is None) == (settings.model is None):
        raise ClipsiftError("say either --run RUN_DIR or --model NAME_OR_JSON with --pretrained TAG_OR_FILE")
    out = settings.out or (f"{settings.run}/evaluation" if settings.run else None)
    if out is None:
        raise ClipsiftError("--out is missing: the folder for eval_results.jsonl and summary.json")
    machine = launch(settings.trainer)
    clip = load_result(Path(settings.run)) if settings.run else load_clip(str(settings.model), settings.pretrained)
    on_rank_zero(partial(_obtain, settings.data, tasks if settings.download else None))
    how = Evaluation(tasks, settings.rules, settings.precision, settings.batch_size, settings.workers)
    run_evaluate(clip, settings.data, Path(out), how, machine)


def _obtain(data: str, tasks: list[str] | None) -> None:
    """The folder of evaluation data is there; ``tasks`` are fetched into it unless None."""
    if tasks is not None:
        download(tasks, data)
    if not Path(data).is_dir():
        raise ClipsiftError(f"data: {data} does not exist")
