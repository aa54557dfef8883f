"""Start a training, resume it, or find it done: always the same call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from clipsift_common.clip import CONFIG_NAME, WEIGHTS_NAME, model_config
from clipsift_common.distributed import on_rank_zero, world_size
from clipsift_common.ends import stop
from clipsift_common.ends.watch import go_on
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import file_fingerprint, fingerprint, read_json, wait_for, write_json
from clipsift_common.machine import Machine, listed, make_lone_trainer, make_trainer
from training.averaging import MovingAverage
from training.checkpoints import KEEP, AtomicCheckpointIO, find_checkpoint
from training.data import PoolDataModule
from training.export import export_model
from training.fsdp import ShardedStrategy, full_state
from training.guard import MAX_SKIPPED, Guard
from training.metrics import Metrics
from training.model import CLIPModule
from training.online import OnlineSelection
from training.precision import float32_as_open_clip
from training.supervisor import Interrupted, Supervisor

logger = logging.getLogger("clipsift")

_NOTE = "training.json"  # written last: its run is complete
# Settings of the model that change how a run is computed, not what comes out.
_HOW_NOT_WHAT = ("accumulate", "grad_checkpointing", "trim_text", "compile", "model")
# Options of the Trainer that would change the length of the run or the batch behind its back, and their harmless value.
_NOT_OURS = {"accumulate_grad_batches": 1, "limit_train_batches": 1.0, "overfit_batches": 0.0, "fast_dev_run": False}


def fit(
    module: CLIPModule,
    datamodule: PoolDataModule,
    out: str | Path,
    machine: Machine,
    resume: bool = True,
    alone: bool = False,
    checkpoint_steps: int | Collection[int] = 1000,
    checkpoint_minutes: float = 15.0,
    checkpoint_keep: int = KEEP,
    options: dict[str, Any] | None = None,
    online: OnlineSelection | None = None,
    max_skipped: int = MAX_SKIPPED,
    last: Sequence[L.Callback] = (),
) -> Path:
    """Train, or continue from the newest whole checkpoint of ``<out>/training``, or find the run complete.

    Args:
        module, datamodule: what to train, on what.
        out: run directory.
        machine: where; its world size must divide the global batch.
        resume: False trains from the start whatever is there.
        alone: train in this process only, although others may exist (the teacher, on rank 0).
        checkpoint_steps: save after so many steps (several: after the multiples of each),
        checkpoint_minutes: and after so many minutes.
        checkpoint_keep: how many there are to be, the last one included.
        options: more options of the Trainer (``log_every_n_steps``, ``gradient_clip_val``, ``logger`` ...).
        online: chooses each step's samples among more; the data module is told to draw so many.
        last: callbacks that come after our own, and so find each step saved that is to be.
        max_skipped: updates that may be skipped since a loss or gradient is not finite (:mod:`training.guard`).

    Returns:
        The folder of the exported model.

    Raises:
        ClipsiftError: for data that is damaged beyond ``max_loss``, a run that diverges, a checkpoint of other
            settings, a full disk.
        Interrupted: after SIGTERM, SIGUSR1 or Ctrl-C, with the state saved.
    """
    folder, options = Path(out) / "training", options or {}
    _check_options(options)
    if not alone:
        options = options | _strategy(machine, module, options)
    settings = run_settings(module, datamodule) | {
        "trainer.gradient_clip_val": options.get("gradient_clip_val"),
        "trainer.precision": machine.precision,
    }
    if online:
        settings |= online.settings()
        datamodule.num_drawn = online.num_drawn
    decide: Callable[[Callable[[], Any]], Any] = (lambda work: work()) if alone else on_rank_zero
    if decide(lambda: resume and is_complete(folder, settings)):
        logger.info("training: %s is complete", folder)
        return folder / "model"
    start = decide(lambda: find_checkpoint(folder, settings) if resume else None)
    guard = Guard(folder, max_skipped)
    every = (checkpoint_steps,) if isinstance(checkpoint_steps, int) else checkpoint_steps
    supervisor = Supervisor(folder, settings, datamodule.max_loss, every, checkpoint_minutes, guard, alone)
    if decay := module.hparams["ema"]:  # first: whoever looks at a step's weights finds the average of that step
        options = options | {"callbacks": [MovingAverage(decay, guard), *listed(options.get("callbacks"))]}
    # Metrics first: the row of a step is written before its checkpoint, so a resumed run finds it.
    own = [
        guard,
        Metrics(folder / "metrics.csv", datamodule.global_batch, supervisor),
        supervisor,
        *([online] if online else []),
        *last,
    ]
    trainer = make_fit_trainer(machine, alone, own, options, checkpoint_keep)
    if trainer.is_global_zero:
        (folder / _NOTE).unlink(missing_ok=True)  # of another experiment, or not wanted: these weights will go
    try:
        with stop.listening(), float32_as_open_clip(trainer.strategy.root_device):
            trainer.fit(module, datamodule=datamodule, ckpt_path=start, weights_only=True)
    finally:
        go_on()  # the Trainer has put everything away; what comes of an error is the caller's to say
    if supervisor.interrupted:
        raise Interrupted(supervisor.interrupted, trainer.global_step, datamodule.total_steps)
    stop.stop_if_told()
    state = full_state(module.clip)
    decide(lambda: _finish(module, state, datamodule, folder, supervisor, trainer.world_size))
    wait_for(folder / "model" / CONFIG_NAME)
    return folder / "model"


def _check_options(options: dict[str, Any]) -> None:
    for name, harmless in _NOT_OURS.items():
        if options.get(name, harmless) != harmless:
            raise ClipsiftError(
                f"trainer.{name}: leave it out; data.samples_seen and data.global_batch say how long and how large, "
                "model.accumulate how many pieces a batch is computed in"
            )


def _strategy(machine: Machine, module: CLIPModule, options: dict[str, Any]) -> dict[str, Any]:
    """The Trainer's strategy where it is not the machine's own word."""
    if machine.strategy != "fsdp":
        if machine.strategy != "auto" and not machine.strategy.startswith("ddp"):
            raise ClipsiftError(f"trainer.strategy: {machine.strategy} is not supported; take auto, ddp or fsdp")
        return {}
    if module.hparams["ema"]:
        raise ClipsiftError("model.ema: cannot average a model that trainer.strategy fsdp has split; set it to 0")
    if options.get("gradient_clip_val"):
        raise ClipsiftError("trainer.gradient_clip_val: is not supported with trainer.strategy fsdp; leave it out")
    return {"strategy": ShardedStrategy(world_size())} if world_size() > 1 else {}


def run_settings(module: CLIPModule, datamodule: PoolDataModule) -> dict[str, Any]:
    """What makes the run the experiment it is, as plain values; obtains the subset when it is not there yet."""
    hyper = {name: value for name, value in module.hparams.items() if name not in _HOW_NOT_WHAT}
    architecture = fingerprint(model_config(module.hparams["model"]))
    return {f"model.{name}": value for name, value in hyper.items()} | {
        "model.architecture": architecture,
        **{f"data.{name}": value for name, value in datamodule.settings().items()},
    }


def is_complete(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether ``folder`` holds a finished run of these settings, its weights included."""
    note = folder / _NOTE
    if not note.is_file() or not (folder / "model" / WEIGHTS_NAME).is_file():
        return False
    about = read_json(note)
    if about.get("config") != fingerprint(settings):
        return False
    weights = folder / "model" / WEIGHTS_NAME
    if about["weights"] != file_fingerprint(weights):
        logger.warning("%s: is not the file that was written; it is made again", weights)
        return False
    return True


def make_fit_trainer(
    machine: Machine, alone: bool, callbacks: Sequence[L.Callback], options: dict[str, Any], keep: int = KEEP
) -> L.Trainer:
    """The Trainer of a run; ``callbacks`` come after those of ``options``."""
    fixed = {
        "max_epochs": 1,  # the one epoch is the whole run
        "plugins": [AtomicCheckpointIO(keep), *listed(options.get("plugins"))],
        "callbacks": [*listed(options.get("callbacks")), *callbacks],
        "use_distributed_sampler": False,
    }
    options = {"benchmark": not options.get("deterministic")} | options  # cuDNN's fastest convolution, as in open_clip
    return (make_lone_trainer if alone else make_trainer)(machine, **options | fixed)


def _finish(
    module: CLIPModule,
    state: dict[str, torch.Tensor],
    datamodule: PoolDataModule,
    folder: Path,
    supervisor: Supervisor,
    world_size: int,
) -> None:
    export_model(module.clip, module.hparams["model"], folder / "model", state)
    assert datamodule.order is not None
    note = {
        "steps": datamodule.total_steps,
        "samples_seen": datamodule.total_steps * datamodule.global_batch,
        "global_batch": datamodule.global_batch,
        "world_size": world_size,
        "seconds": round(supervisor.seconds, 2),
        "skipped_updates": len(supervisor.guard.skipped),
        "subset": supervisor.settings["data.subset"],
        "subset_size": len(datamodule.order.rows),
        "weights": file_fingerprint(folder / "model" / WEIGHTS_NAME),
        "config": fingerprint(supervisor.settings),
    }
    write_json(folder / _NOTE, note)
