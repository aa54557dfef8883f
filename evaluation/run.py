"""The evaluation stage: a model and a folder of tasks in, results and a summary out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.fabric.utilities import move_data_to_device

from clipsift_common.clip import LoadedCLIP, wrap_clip
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine, make_trainer
from evaluation.data.loader import TaskLoader
from evaluation.encoder import Encoder
from evaluation.kinds import KINDS
from evaluation.results import Result, ResultStore
from evaluation.rules import Precision, Rules
from evaluation.suite import DataCompSuite
from evaluation.task_run import TaskRun
from evaluation.tasks import TASKS, Task, select_tasks

logger = logging.getLogger("clipsift")


def evaluate(
    model: LoadedCLIP | torch.nn.Module,
    data: str | Path,
    out: str | Path | None = None,
    tasks: Sequence[str] | None = None,
    rules: Rules = "leaderboard",
    precision: Precision = "fp32",
    batch_size: int = 128,
    workers: int = 4,
    machine: Machine | None = None,
    preprocess: Callable[[Any], torch.Tensor] | None = None,
    tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
) -> list[Result]:
    """Evaluate a CLIP on DataComp's tasks, resuming where an earlier call with the same ``out`` stopped.

    Args:
        model: what to evaluate: a loaded CLIP, or a model object with ``tokenizer`` and, unless it is open_clip's,
            ``preprocess`` (see :func:`clipsift_common.clip.wrap_clip`).
        data: folder that holds the tasks' folders, as DataComp's download script leaves it.
        out: folder for ``eval_results.jsonl`` and ``summary.json``; None: results are only returned.
        tasks: keys, names of groups, globs; None: every task whose folder is there.
        rules, precision: as :mod:`evaluation.rules` explains them.
        batch_size: images encoded at once, per process.
        workers: image decoding processes, per process.
        machine: where to run; None: one process, on the GPU if there is one.

    Returns:
        One dict per task, in DataComp's order: ``key``, ``dataset``, ``metrics`` (with ``main_metric``),
        ``random`` (score of a guess), ``num_samples``, ``seconds``. The same on every rank.

    Raises:
        ClipsiftError: for settings that make no sense; for results in ``out`` of another model, rules or precision;
            and, after all others are done and kept, if a task failed, naming it.
    """
    if not isinstance(model, LoadedCLIP):
        model = wrap_clip(model, preprocess, tokenizer)
    for name, word, words in (("rules", rules, get_args(Rules)), ("precision", precision, get_args(Precision))):
        if word not in words:
            raise ClipsiftError(f"{name}: {word} is not one of {', '.join(words)}")
    chosen = select_tasks(on_rank_zero(lambda: _present_tasks(Path(data))) if tasks is None else tasks)
    identity = {"weights": model.fingerprint, "rules": rules, "precision": precision}
    store = ResultStore(None if out is None else Path(out), identity)
    suite = DataCompSuite(model, Path(data), chosen, store, rules, precision, batch_size, workers)
    with _full_float32():
        make_trainer(machine or Machine(devices=1), precision="32-true").test(suite, verbose=False)
    if suite.failures:
        reasons = "; ".join(suite.failures.values())
        raise ClipsiftError(f"{len(suite.failures)} of {len(chosen)} evaluation tasks failed: {reasons}")
    return [store.results[task.key] for task in chosen]


@torch.no_grad()
def evaluate_in_place(
    model: LoadedCLIP,
    data: str | Path,
    tasks: Sequence[Task],
    rules: Rules = "leaderboard",
    batch_size: int = 128,
    workers: int = 4,
) -> tuple[list[Result], dict[str, str]]:
    """Evaluate a CLIP where it is, on the processes as they are: for a model in the middle of its training.

    Nothing is kept on disk. The model's mode and the random state are the caller's to restore.

    Returns:
        The results as from :func:`evaluate`, and by task key what was wrong with those that failed.
    """
    encoder, results, failures = Encoder(model, "fp32"), [], {}
    with _full_float32():
        for task in tasks:
            run = TaskRun(KINDS[task.kind](task, Path(data), rules))
            run.open()
            loader = TaskLoader(run.opened, model.preprocess, batch_size, workers, encoder.device)
            for number, batch in enumerate(loader):
                batch = move_data_to_device(batch, encoder.device)
                if number == 0:
                    run.begin(batch, encoder)
                run.step(batch, encoder)
            try:
                results.append(run.result())
            except ClipsiftError as error:
                failures[task.key] = str(error)
    return results, failures


def _present_tasks(data: Path) -> list[str]:
    if not data.is_dir():
        raise ClipsiftError(f"evaluation data: {data} does not exist")
    present = [task for task in TASKS.values() if (data / task.folder).is_dir()]
    if not present:
        raise ClipsiftError(f"evaluation data: {data} has no task's folder (such as {TASKS['imagenet1k'].folder})")
    absent = [task.key for task in TASKS.values() if task not in present]
    if len(absent) > len(present):
        there = ", ".join(task.key for task in present)
        logger.warning("%s has folders of only %d of %d tasks: %s", data, len(present), len(TASKS), there)
    elif absent:
        logger.warning("%s has no folders of %d of %d tasks: %s", data, len(absent), len(TASKS), ", ".join(absent))
    return [task.key for task in present]


@contextmanager
def _full_float32() -> Iterator[None]:
    """Matrix products in full float32 on any GPU, whatever the training in the same process has allowed itself."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution
