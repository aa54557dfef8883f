"""What is wrong with a run's settings, found before data or weights are loaded."""

from __future__ import annotations

import re
from pathlib import Path

from clipsift_app.published import check_row
from clipsift_app.settings import RunSettings
from clipsift_common.clip import model_config, register_model
from clipsift_common.errors import ClipsiftError
from evaluation.tasks import select_tasks
from selection.features.target import TRUSTED
from selection.pool.location import Pool
from training.data import NUMBERS, check_numbers

# A run's length is data.samples_seen and nothing else; these would say it twice.
_LENGTHS = ("max_epochs", "min_epochs", "max_steps", "min_steps", "max_time")


def check_run(run: RunSettings, needs_eval: bool, trains: bool) -> None:
    """Raise :class:`ClipsiftError` for all that can be found wrong without loading data or weights.

    ``trains``: whether model and data are part of the run.
    """
    for key in _LENGTHS:
        if run.trainer.get(key) not in (None, -1):
            raise ClipsiftError(f"trainer.{key}: the length of a run is data.samples_seen; leave it out")
        run.trainer.pop(key, None)
    check_row(run.published)
    if not 0 <= run.max_loss <= 1:
        raise ClipsiftError(f"max_loss is a share in [0, 1], got {run.max_loss}")
    if run.hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", run.hub):
        raise ClipsiftError(f"hub: {run.hub} is no USER/NAME")
    Pool(run.pool)
    if run.trusted:
        Pool(run.trusted)
    if run.truth and not Path(run.truth).is_file():
        raise ClipsiftError(f"truth: {run.truth} does not exist")
    if needs_eval and (not run.eval or not Path(run.eval).is_dir()):
        raise ClipsiftError(f"eval: {run.eval} does not exist" if run.eval else "--eval is missing")
    if trains:
        check_numbers(**{name: run.data[name] for name in NUMBERS})
        if "multimodal_cfg" in model_config(run.model["model"]):
            raise ClipsiftError(
                f"model.model: {run.model['model']} is a CoCa, whose captioning loss there is not; take a CLIP"
            )
    select_tasks(run.evaluation.tasks or ["*"])
    if run.validation.chosen(run.eval) and run.machine.strategy == "fsdp":
        raise ClipsiftError("validation.tasks: cannot be scored on a model that trainer.strategy fsdp has split")
    steps = run.selection.check(run.trusted).steps
    for step in [*steps, *(run.online.check(run.trusted) if run.online else ())]:
        for target in step.targets:
            if target != TRUSTED and not Path(target).exists():
                raise ClipsiftError(f"selection: the target {target} of {step.name} does not exist")
    for part in (run.selection, run.online):
        if part and part.teacher and not Path(part.teacher.model).is_dir():
            register_model(part.teacher.model)
