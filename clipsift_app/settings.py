"""A run's settings: typed YAML through LightningCLI, checked whole before anything is loaded."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import jsonargparse
import lightning as L
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from clipsift_app.includes import with_includes
from clipsift_app.published import check_row
from clipsift_app.validation import Validation
from clipsift_common.clip import register_model
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import write_text
from clipsift_common.machine import Machine
from evaluation.tasks import select_tasks
from selection.features.target import TRUSTED
from selection.pool.location import Pool
from selection.recipe.step import map_paths
from selection.settings import Selection
from training.data import PoolDataModule
from training.model import CLIPModule
from training.online import Online

T = TypeVar("T")

REPOSITORY = Path(__file__).resolve().parents[1]

# A run's length is data.samples_seen and nothing else; these would say it twice.
_LENGTHS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")


@dataclass
class Evaluation:
    """Which tasks, by which rules. ``tasks``: keys, group names or globs; all that the folder has when empty."""

    tasks: list[str] = field(default_factory=list)
    rules: Literal["leaderboard", "corrected"] = "leaderboard"
    precision: Literal["fp32", "amp"] = "fp32"
    batch_size: int = 256
    workers: int = 2


@dataclass
class Checkpoint:
    """How often training saves: after so many steps, and after so many minutes."""

    steps: int = 1000
    minutes: float = 15.0


class RunCLI(LightningCLI):
    """LightningCLI's parser for a whole run; parses and checks, and leaves making things to the stages."""

    def __init__(self, arguments: list[str]) -> None:
        super().__init__(
            CLIPModule,
            PoolDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={"exit_on_error": False},
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--include", type=list[str], default=[], help="Config files that come before this one.")
        parser.add_argument("--name", type=str | None, default=None, help="What the run is called in tables.")
        parser.add_argument("--published", type=str | None, default=None, help="Row of published.yaml; default: name.")
        parser.add_argument("--pool", type=str, help="Shards, metadata: a folder, glob, brace range or fsspec URL.")
        parser.add_argument("--trusted", type=str | None, default=None, help="Shards of pairs known to be good.")
        parser.add_argument("--eval", type=str | None, default=None, help="Folder of evaluation sets (DataComp's).")
        parser.add_argument("--out", type=str, help="The run directory.")
        parser.add_argument("--cache", type=str | None, default=None, help="Index and features; default OUT/cache.")
        parser.add_argument("--truth", type=str | None, default=None, help="Parquet of uid and kind, for the report.")
        parser.add_argument("--hub", type=str | None, default=None, help="USER/NAME on the Hub to push the model to.")
        parser.add_argument("--max_loss", type=float, default=0.01, help="Share of samples that may be damaged.")
        parser.add_argument("--selection", type=Selection, default=Selection(), help="Which pairs are kept.")
        parser.add_argument("--online", type=Online | None, default=None, help="Keep the best of each super-batch.")
        parser.add_argument("--evaluation", type=Evaluation, default=Evaluation(), help="Which tasks, by which rules.")
        parser.add_argument("--validation", type=Validation, default=Validation(), help="Tasks scored during training.")
        parser.add_argument("--checkpoint", type=Checkpoint, default=Checkpoint(), help="How often training saves.")
        for source, target in (
            ("pool", "data.pool"),
            ("out", "data.out"),
            ("cache", "data.cache"),
            ("max_loss", "data.max_loss"),
            ("seed_everything", "data.seed"),
            ("seed_everything", "model.seed"),
            ("model.model", "data.model"),
        ):
            parser.link_arguments(source, target)

    def instantiate_classes(self) -> None:
        """Left to the stages: a wrong setting must fail before anything is made."""


@dataclass
class RunSettings:
    """A parsed and checked run: the YAML's keys; ``data``, ``model`` and ``trainer`` as plain mappings."""

    cli: RunCLI
    name: str
    pool: str
    trusted: str | None
    eval: str | None
    out: Path
    cache: Path
    truth: str | None
    hub: str | None
    max_loss: float
    seed: int
    selection: Selection
    online: Online | None
    evaluation: Evaluation
    validation: Validation
    checkpoint: Checkpoint
    machine: Machine
    data: dict[str, Any]
    model: dict[str, Any]
    trainer: dict[str, Any]

    def save(self) -> None:
        """Write ``config.yaml`` into the run directory: running it again reproduces or continues the run."""
        write_text(self.out / "config.yaml", self.cli.parser.dump(self.cli.config, skip_none=False))


def parse_run(arguments: list[str], needs_eval: bool = True) -> RunSettings:
    """Settings from command-line arguments (``--config FILE ... --key.sub value ...``).

    Raises:
        ClipsiftError: one line, for an unknown key, a wrong type, a missing path, a contradiction.
    """
    try:
        cli = RunCLI(with_includes(arguments))
        settings = _absolute_paths(cli.config)
        selection = _made(Selection, settings.selection)
        online = _made(Online, settings.online) if settings.online else None
        validation = _made(Validation, settings.validation)
        evaluation, checkpoint = _made(Evaluation, settings.evaluation), _made(Checkpoint, settings.checkpoint)
    except ClipsiftError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ClipsiftError(one_line(error)) from error
    trainer = {key: value for key, value in settings.trainer.as_dict().items() if value is not None}
    machine = Machine(**{key: trainer.pop(key) for key in list(trainer) if key in Machine.__dataclass_fields__})
    model = settings.model.as_dict()
    data = settings.data.as_dict() | {key: settings[key] for key in ("pool", "out", "cache")}
    data["model"] = model["model"]
    run = RunSettings(
        cli=cli,
        name=settings.name or Path(settings.out).name,
        pool=settings.pool,
        trusted=settings.trusted,
        eval=settings.eval,
        out=Path(settings.out),
        cache=Path(settings.cache or Path(settings.out) / "cache"),
        truth=settings.truth,
        hub=settings.hub,
        max_loss=settings.max_loss,
        seed=settings.seed_everything,
        selection=selection,
        online=online,
        evaluation=evaluation,
        validation=validation,
        checkpoint=checkpoint,
        machine=machine,
        data=data,
        model=model,
        trainer=trainer,
    )
    _check(run, needs_eval)
    return run


def _made(kind: type[T], values: jsonargparse.Namespace) -> T:
    """The dataclass that a parsed mapping describes."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind)
    return parser.instantiate(parser.parse_object({"part": values.as_dict()})).part


def one_line(error: BaseException) -> str:
    """An error's message as one line."""
    cause = error.__cause__
    while cause is not None:  # a dataclass's own check, wrapped by the parser
        if isinstance(cause, ClipsiftError):
            return str(cause)
        cause = cause.__cause__
    return " ".join(part.strip() for part in str(error).strip().splitlines() if part.strip())


def make_trainer_options(options: dict[str, Any]) -> dict[str, Any]:
    """The ``trainer`` settings with their ``class_path``s (logger, callbacks, plugins, profiler) as objects.

    Raises:
        ClipsiftError: for one that cannot be made, such as a logger whose library is not installed.
    """
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(L.Trainer, "trainer")
    try:
        made = parser.instantiate_classes(parser.parse_object({"trainer": options})).trainer
    except Exception as error:  # a class of anybody's
        raise ClipsiftError(f"trainer: {one_line(error)}") from error
    return {key: made[key] for key in options}


def _check(run: RunSettings, needs_eval: bool) -> None:
    """Everything that can be found out without loading data or weights."""
    for key in _LENGTHS:
        if run.trainer.get(key) not in (None, -1):
            raise ClipsiftError(f"trainer.{key}: the length of a run is data.samples_seen; leave it out")
        run.trainer.pop(key, None)
    check_row(run.cli.config.published)
    if not 0 <= run.max_loss <= 1:
        raise ClipsiftError(f"max_loss is a share in [0, 1], got {run.max_loss}")
    if run.cli.config.pool is None or run.cli.config.out is None:
        raise ClipsiftError(f"--{'pool' if run.pool is None else 'out'} is missing")
    if run.hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", run.hub):
        raise ClipsiftError(f"hub: {run.hub} is no USER/NAME")
    Pool(run.pool)
    if run.trusted:
        Pool(run.trusted)
    if run.truth and not Path(run.truth).is_file():
        raise ClipsiftError(f"truth: {run.truth} does not exist")
    if needs_eval and (not run.eval or not Path(run.eval).is_dir()):
        raise ClipsiftError(f"eval: {run.eval} does not exist" if run.eval else "--eval is missing")
    PoolDataModule(**run.data)  # checks its numbers
    select_tasks(run.evaluation.tasks or ["*"])
    if run.validation.chosen(run.eval) and run.machine.strategy == "fsdp":
        raise ClipsiftError("validation.tasks: cannot be scored on a model that trainer.strategy fsdp has split")
    steps = run.selection.check(run.trusted).steps
    for step in [*steps, *(run.online.check(run.trusted) if run.online else ())]:
        for target in step.targets:
            if target != TRUSTED and not Path(target).exists():
                raise ClipsiftError(f"selection: the target {target} of {step.name} does not exist")
    register_model(run.model["model"])
    for part in (run.selection, run.online):
        if part and part.teacher and not Path(part.teacher.model).is_dir():
            register_model(part.teacher.model)


def _absolute_paths(config: jsonargparse.Namespace) -> jsonargparse.Namespace:
    """Make paths independent of the working directory, in place, so that the saved config reruns from anywhere."""
    for key in ("pool", "trusted", "eval", "out", "cache", "truth", "model.model", "data.subset", "selection.within"):
        if config.get(key):
            config[key] = _absolute(config[key], must_exist=key not in ("out", "cache"))
    for part in (config.selection, config.online):
        if part and (teacher := part.teacher):
            teacher.model = _absolute(teacher.model)
            teacher.pretrained = teacher.pretrained and _absolute(teacher.pretrained)
    for key in ("union", "intersect", "subtract"):
        config.selection[key] = [_absolute(path) for path in config.selection[key]]
    for step in [*config.selection.steps, *(config.online.steps if config.online else ())]:
        map_paths(step, _absolute)
    config.include = []  # their keys are in config now
    return config


def _absolute(value: str, must_exist: bool = True) -> str:
    """``value`` made absolute if it is a local path (relative to here, else to the repository), else unchanged."""
    if "://" in value or "::" in value or value.startswith("pipe:"):
        return value
    for base in (Path.cwd(), REPOSITORY):
        if (base / value).exists():
            return str((base / value).resolve())
    if must_exist and not any(mark in value for mark in "{*"):
        return value
    return str((Path.cwd() / value).absolute())


def print_error(error: BaseException) -> None:
    """The one line a user sees when something is wrong."""
    print(f"clipsift: error: {one_line(error)}", file=sys.stderr)
