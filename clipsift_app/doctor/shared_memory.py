"""Is ``/dev/shm`` large enough for the batches on their way from the workers? Containers often have 64 MB of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from clipsift_app.doctor.finding import Finding, size
from clipsift_app.settings import RunSettings
from clipsift_common.machine import LaunchedMachine, num_workers
from training.loading.slots import Slots

_SHARED = "/dev/shm"
_PREFETCHED = 2  # batches that torch's DataLoader lets each worker prepare


@dataclass(frozen=True)
class _Stage:
    """A stage's workers of one rank, and the bytes of all batches that are on their way from them."""

    setting: str
    workers: int
    num_bytes: int


def check_shared_memory(
    run: RunSettings, machine: LaunchedMachine, pixels: int, num_bytes: float, drawn: int
) -> list[Finding]:
    """For training, embedding and evaluation, which run one after the other: the stage that needs most.

    Args:
        machine: where the run is launched.
        pixels: numbers of a picture.
        num_bytes: of a sample on its way to training: its pixels, or its JPEG where the GPU decodes.
        drawn: samples that a rank draws for a step.
    """
    training, embedding, evaluation = int(run.data["workers"]), run.selection.embedding, run.evaluation
    if run.data["decode"] == "gpu":
        stages = [_loader("data.workers", training, drawn, num_bytes)]
    else:
        stages = [_Stage("data.workers", training, Slots.count(training) * drawn * int(num_bytes))]
    if run.selection.teacher:
        workers = num_workers(embedding.workers, machine)
        stages.append(_loader("selection.embedding.workers", workers, embedding.batch_size, pixels))
    if run.eval:
        stages.append(
            _loader("evaluation.workers", num_workers(evaluation.workers, machine), evaluation.batch_size, pixels)
        )
    most = max((stage for stage in stages if stage.workers), key=lambda stage: stage.num_bytes, default=None)
    if most is None:
        return []
    need, free = machine.place.per_node * most.num_bytes, shutil.disk_usage(_SHARED).free
    text = f"{size(need)} of {_SHARED} for batches from {most.workers} workers of each rank, {size(free)} free"
    if need > free:
        return [Finding("shared memory", "fail", text, f"docker run --shm-size, or --{most.setting} fewer")]
    return [Finding("shared memory", "ok", text)]


def _loader(setting: str, workers: int, batch_size: int, num_bytes: float) -> _Stage:
    return _Stage(setting, workers, round(_PREFETCHED * workers * batch_size * num_bytes))
