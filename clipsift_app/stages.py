"""The stages of a run, each idempotent: select, fit, evaluate, report; and all of them in a row."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L

from clipsift_app.report import build_report
from clipsift_app.run_cli import make_trainer_options
from clipsift_app.settings import Evaluation, RunSettings
from clipsift_app.validation import Validate
from clipsift_common.clip import LoadedCLIP, load_clip
from clipsift_common.distributed import on_rank_zero
from clipsift_common.engines.base import Part
from clipsift_common.engines.on_ray import make_engine
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.locks import hold
from clipsift_common.machine import Machine, device_of, listed, num_workers
from clipsift_common.progress import make_console
from evaluation import evaluate
from evaluation.table import format_table
from selection.features.target import load_target
from selection.features.target_rows import checked_rows
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Teacher
from training.data import PoolDataModule
from training.fit import fit
from training.model import CLIPModule
from training.online import OnlineSelection
from training.push import push_model
from training.teacher import train_teacher

logger = logging.getLogger("clipsift")


def run_select(run: RunSettings) -> Path:
    """Train the teacher if it is to be trained in place, embed, score, keep; the subset file."""
    subset = _selector(run).run()
    about = read_json(subset.with_suffix(".json"))
    logger.info("selection: %s of %s pairs kept: %s", f"{about['num_kept']:,}", f"{about['num_pool']:,}", subset)
    return subset


def run_score(run: RunSettings) -> Path:
    """Score and choose nothing; the folder of the score columns."""
    _selector(run).score()
    return run.out / "selection" / "scores"


def run_score_part(run: RunSettings, part: Part) -> str:
    """Score a part of the pool; how much that was."""
    report = _selector(run).score_part(part)
    lost = "".join(f"; {count:,} {cause}" for cause, count in report.lost.items())
    return f"{report.samples:,} pairs{lost}"


def _selector(run: RunSettings) -> Selector:
    teacher = run.selection.teacher
    return Selector(
        selection=run.selection,
        pool=run.candidates(),
        out=run.out,
        cache=run.cache,
        seed=run.seed,
        machine=run.machine,
        teacher=partial(load_teacher, run, teacher) if teacher else None,
        trusted=run.trusted,
        max_loss=run.max_loss,
        engine=make_engine(run.engine, run.machine),
    )


def load_teacher(run: RunSettings, teacher: Teacher) -> LoadedCLIP:
    """The teacher, loaded or trained in place."""
    if teacher.train is None:
        return load_clip(teacher.model, teacher.pretrained)
    assert run.trusted is not None
    workers, steps = num_workers(run.selection.embedding.workers, run.machine), run.checkpoint.steps
    how = (run.seed, run.machine, workers, run.max_loss, steps, run.fields)
    folder = train_teacher(teacher, run.trusted, run.cache, *how)
    return load_clip(str(folder), None)


def _online(run: RunSettings) -> OnlineSelection | None:
    """The selection during training, if there is to be one, with its teacher."""
    if run.online is None:
        return None
    steps, clip, device = run.online.check(run.trusted), load_teacher(run, run.online.teacher), device_of(run.machine)
    names = sorted({target for step in steps for target in step.targets})
    loaded = {name: load_target(name, clip, None, run.cache, device, run.trusted) for name in names}
    targets = {name: checked_rows(name, rows).to(device) for name, rows in loaded.items()}
    model, global_batch = run.model["model"], int(run.data["global_batch"])
    return OnlineSelection(run.online, steps, clip, targets.__getitem__, model, global_batch, run.seed)


def run_fit(run: RunSettings, callbacks: Sequence[L.Callback] = ()) -> Path:
    """Train on the selected pairs, filtering the shards on the fly; the folder of the trained model.

    ``callbacks`` join those of the settings.
    """
    module = CLIPModule(**run.model)
    data = PoolDataModule(**run.data | {"cache": str(run.cache)})
    data.obtain = lambda: run_select(run)
    steps, minutes = run.checkpoint.steps, run.checkpoint.minutes
    options = make_trainer_options(run.trainer)
    options["callbacks"] = [*listed(options.get("callbacks")), *callbacks, *_validation(run)]
    folder = fit(
        module,
        data,
        run.out,
        run.machine,
        checkpoint_steps=steps,
        checkpoint_minutes=minutes,
        options=options,
        online=_online(run),
        max_skipped=run.max_skipped,
    )
    if run.hub:
        logger.info("hub: %s", on_rank_zero(partial(push_model, folder, run.hub)))
    return folder


def _validation(run: RunSettings) -> list[Validate]:
    tasks = run.validation.chosen(run.eval)
    path, every_steps, how = run.out / "training" / "validation.csv", run.validation.every_steps, run.evaluation
    options = {"rules": how.rules, "batch_size": how.batch_size, "workers": num_workers(how.workers, run.machine)}
    return [Validate(tasks, str(run.eval), path, every_steps, **options)] if tasks else []


def load_result(out: Path) -> LoadedCLIP:
    """The CLIP that a run has trained.

    Raises :class:`ClipsiftError` for a run without one, or whose weights are not those that it wrote.
    """
    folder, note = out / "training" / "model", out / "training" / "training.json"
    if not folder.is_dir():
        raise ClipsiftError(f"{folder}: does not exist; clipsift fit --config {out}/config.yaml finishes it")
    clip = load_clip(str(folder), None)
    if note.is_file() and read_json(note).get("weights", clip.fingerprint) != clip.fingerprint:
        raise ClipsiftError(
            f"{folder}: its weights are not those that were written, by the fingerprint in {note}; "
            f"clipsift fit --config {out}/config.yaml makes them again"
        )
    return clip


def run_evaluate(clip: LoadedCLIP, data: str, out: Path, settings: Evaluation, machine: Machine) -> None:
    """Evaluate weights on the tasks under ``data``; print the table."""
    hold(out)
    evaluate(
        clip,
        data,
        out,
        settings.tasks or None,
        settings.rules,
        settings.precision,
        settings.batch_size,
        num_workers(settings.workers, machine),
        machine,
    )
    on_rank_zero(lambda: make_console().print(format_table(read_json(out / "summary.json"))))


def run_report(out: Path, pool: Pool, cache: Path, truth: str | None, **how: Any) -> Path:
    """Write the run's page; with pictures when the pool's shards are at hand. ``how``: of :func:`build_report`."""
    index = open_index(pool, cache)
    return on_rank_zero(lambda: build_report(out, index=index, truth=Path(truth) if truth else None, **how))


def open_index(pool: Pool, cache: Path) -> PoolIndex | None:
    """The index of the pool, if it has shards."""
    return PoolIndex.build(pool, cache) if pool.shards else None


def reproduce(run: RunSettings) -> Path:
    """Select, train, evaluate, report: skips what is complete, resumes what is not. The report's page."""
    run_fit(run)
    assert run.eval is not None
    run_evaluate(load_result(run.out), run.eval, run.out / "evaluation", run.evaluation, run.machine)
    return run_report(run.out, run.candidates(), run.cache, run.truth)
