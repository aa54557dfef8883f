"""What is wrong with a run's settings, found before data or weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from clipsift_app.published import check_row
from clipsift_app.settings import RunSettings
from clipsift_common.clip import model_config, register_model
from clipsift_common.devices import uses_gpus
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from evaluation.tasks import select_tasks
from selection.features.target import TRUSTED
from selection.pool.location import Pool
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.step import Step
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
    if run.max_skipped < 0:
        raise ClipsiftError(f"max_skipped is a number of updates, 0 or more; got {run.max_skipped}")
    if run.hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", run.hub):
        raise ClipsiftError(f"hub: {run.hub} is no USER/NAME")
    if needs_eval and not run.eval:
        raise ClipsiftError("--eval is missing")
    if trains:
        check_numbers(**{name: run.data[name] for name in NUMBERS})
        if run.data["decode"] == "gpu" and not uses_gpus(run.machine.accelerator, torch.cuda.device_count()):
            raise ClipsiftError("data.decode: gpu needs a GPU; take fast")
        if "multimodal_cfg" in model_config(run.model["model"]):
            raise ClipsiftError(
                f"model.model: {run.model['model']} is a CoCa, whose captioning loss there is not; take a CLIP"
            )
    select_tasks(run.evaluation.tasks or ["*"])
    if run.validation.chosen(run.eval) and run.machine.strategy == "fsdp":
        raise ClipsiftError("validation.tasks: cannot be scored on a model that trainer.strategy fsdp has split")
    recipe = run.selection.check(run.trusted)
    steps = [*recipe.steps, *(run.online.check(run.trusted) if run.online else ())]
    on_rank_zero(lambda: _check_places(run, needs_eval, recipe, steps))
    for part in (run.selection, run.online):
        if part and part.teacher and not Path(part.teacher.model).is_dir():
            register_model(part.teacher.model)


def _check_places(run: RunSettings, needs_eval: bool, recipe: ParsedRecipe, steps: Sequence[Step]) -> None:
    """See that what the settings name is on the disk."""
    Pool(run.pool)
    if run.trusted:
        Pool(run.trusted)
    if run.truth and not Path(run.truth).is_file():
        raise ClipsiftError(f"truth: {run.truth} does not exist")
    if needs_eval and not Path(run.eval or "").is_dir():
        raise ClipsiftError(f"eval: {run.eval} does not exist")
    for task in run.validation.chosen(run.eval):
        if not Path(run.eval or "", task.folder).is_dir():
            raise ClipsiftError(f"validation.tasks: {Path(run.eval or '', task.folder)} does not exist")
    recipe.check_subsets()
    for step in steps:
        for target in step.targets:
            if target != TRUSTED and not Path(target).exists():
                raise ClipsiftError(f"selection: the target {target} of {step.name} does not exist")
