"""Arguments and YAML to a run's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import jsonargparse

from clipsift_app.config_checks import naming_file
from clipsift_app.includes import with_includes
from clipsift_app.paths import expand_home, make_absolute
from clipsift_app.run_cli import RunCLI, one_line
from clipsift_app.setting_checks import check_run
from clipsift_app.settings import Checkpoint, Evaluation, RunSettings
from clipsift_app.validation import Validation
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from selection.samples.fields import Fields
from selection.settings import Selection
from training.online import Online

T = TypeVar("T")


def parse_run(arguments: list[str], needs_eval: bool = True, trains: bool = True) -> RunSettings:
    """Settings from command-line arguments (``--config FILE ... --key.sub value ...``).

    Args:
        needs_eval: whether the run ends with an evaluation.
        trains: whether it has a training; if not, the keys of ``model`` and ``data`` may be missing.

    Raises:
        ClipsiftError: one line, for an unknown key, a wrong type, a missing path, a contradiction.
    """
    try:
        arguments = with_includes(arguments)
        cli = RunCLI(arguments, trains)
        settings = expand_home(cli.config)
        for key in ("pool", "out"):
            if settings[key] is None:
                raise ClipsiftError(f"--{key} is missing")
        make_absolute(settings)
        settings.include, engine = [], settings.engine  # their keys are in it now
        settings.engine = "group"  # how this start works is nothing that another repeats
        selection, fields = _made(Selection, settings.selection), _made(Fields, settings.fields)
        online = _made(Online, settings.online) if settings.online else None
        validation = _made(Validation, settings.validation)
        evaluation, checkpoint = _made(Evaluation, settings.evaluation), _made(Checkpoint, settings.checkpoint)
    except ClipsiftError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ClipsiftError(naming_file(arguments, one_line(error))) from error
    trainer = {key: value for key, value in settings.trainer.as_dict().items() if value is not None}
    machine = Machine(**{key: trainer.pop(key) for key in list(trainer) if key in Machine.__dataclass_fields__})
    model = settings.model.as_dict()
    data = settings.data.as_dict() | {key: settings[key] for key in ("pool", "out", "cache")}
    data |= {"model": model["model"], "fields": fields}
    run = RunSettings(
        name=settings.name or Path(settings.out).name,
        pool=settings.pool,
        fields=fields,
        trusted=settings.trusted,
        eval=settings.eval,
        out=Path(settings.out),
        cache=Path(settings.cache or Path(settings.out) / "cache"),
        truth=settings.truth,
        hub=settings.hub,
        max_loss=settings.max_loss,
        max_skipped=settings.max_skipped,
        seed=settings.seed_everything,
        selection=selection,
        online=online,
        evaluation=evaluation,
        validation=validation,
        checkpoint=checkpoint,
        machine=machine,
        engine=engine,
        data=data,
        model=model,
        trainer=trainer,
        published=settings.published,
        resolved=cli.parser.dump(settings, skip_none=not trains),
    )
    check_run(run, needs_eval, trains)
    return run


def read_settings(folder: Path) -> RunSettings:
    """The settings that a run directory was made with, whatever verb made it."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise ClipsiftError(f"{path}: does not exist")
    return parse_run(["--config", str(path)], needs_eval=False, trains=False)


def _made(kind: type[T], values: jsonargparse.Namespace) -> T:
    """The dataclass that a parsed mapping describes."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=kind)
    return parser.instantiate(parser.parse_object({"part": values.as_dict()})).part
