"""A teacher trained in place: a CLIP from scratch on the trusted shards, which is what a data filtering network is."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from clipsift_common.clip import CONFIG_NAME, model_config
from clipsift_common.distributed import on_rank_zero
from clipsift_common.files import fingerprint, wait_for
from clipsift_common.images import DECODING
from clipsift_common.locks import hold
from clipsift_common.machine import Machine, num_threads
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.samples.fields import Fields
from selection.settings import Teacher
from selection.subset import Subset
from training.data import PoolDataModule
from training.fit import fit
from training.model import CLIPModule


def train_teacher(
    teacher: Teacher,
    trusted: str,
    cache: Path,
    seed: int,
    machine: Machine,
    workers: int,
    max_loss: float,
    checkpoint_steps: int = 1000,
    fields: Fields | None = None,
) -> Path:
    """The model folder of the teacher; trained now, continued, or found complete under ``cache``.

    Rank 0 trains alone, without a GPU in one thread, so that the teacher, and with it every score and the subset, is
    the same for any number of processes. (A large teacher is better trained as a run of its own, on all devices, and
    given as ``model: RUN/training/model``.)
    """
    assert teacher.train is not None
    index = PoolIndex.build(Pool.shared(trusted, fields), cache / "trusted", workers, max_loss)
    settings = asdict(teacher.train)
    identity = fingerprint([model_config(teacher.model), settings, index.fingerprint, seed, DECODING])
    out = cache / "teacher" / identity
    hold(out)  # several runs may share the cache
    on_rank_zero(partial(_train, teacher, index, trusted, out, seed, machine, workers, max_loss, checkpoint_steps))
    model = out / "training" / "model"
    wait_for(model / CONFIG_NAME)
    return model


def _train(
    teacher: Teacher,
    index: PoolIndex,
    trusted: str,
    out: Path,
    seed: int,
    machine: Machine,
    workers: int,
    max_loss: float,
    checkpoint_steps: int,
) -> None:
    assert teacher.train is not None
    module = CLIPModule(
        teacher.model,
        lr=teacher.train.lr,
        warmup=teacher.train.warmup,
        weight_decay=teacher.train.weight_decay,
        seed=seed,
    )
    data = PoolDataModule(
        pool=trusted,
        out=str(out),
        model=teacher.model,
        samples_seen=teacher.train.samples_seen,
        global_batch=teacher.train.global_batch,
        workers=workers,
        seed=seed,
        max_loss=max_loss,
    )
    data.use(index, Subset(index.uids))
    with num_threads(1):
        fit(module, data, out, machine, alone=True, checkpoint_steps=checkpoint_steps)
