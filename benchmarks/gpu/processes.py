"""Part 6: collectives at world size 1 on the device's own backend and on gloo, and the device of each launch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather

from benchmarks.gpu.rows import Row, holds
from clipsift_common.distributed import barrier, broadcast_object, gather_objects, sum_over_ranks, waiting_group
from clipsift_common.launch import join
from clipsift_common.machine import Machine

SRUN = {"SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_NODES": "1", "SLURM_NODEID": "0"}
SRUN |= {"SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "node1"}
TORCHRUN = {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


def run(small: bool, folder: Path) -> Iterator[Row]:
    backend = "gloo" if small else "nccl"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # a machine without a network may not resolve its own name
    with tempfile.NamedTemporaryFile() as meeting:
        store = dist.FileStore(meeting.name, 1)
        if not small:
            torch.cuda.set_device(0)
        dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timedelta(seconds=60))
        try:
            yield from _collectives(backend)
            yield from _on_device(backend, torch.device("cpu" if small else "cuda:0"))
        finally:
            dist.destroy_process_group()
    yield from _devices()


def _collectives(backend: str) -> Iterator[Row]:
    values = np.arange(10, dtype=np.int64)
    barrier()
    yield holds(f"{backend}: an object comes back", broadcast_object({"a": 1}) == {"a": 1})
    yield holds(f"{backend}: objects are gathered", gather_objects("x") == ["x"])
    yield holds(f"{backend}: sums are exact", bool((sum_over_ranks(values) == values).all()))
    group = waiting_group()
    yield holds(f"{backend}: waiting is gloo's", dist.get_backend(group) == "gloo")


def _on_device(backend: str, device: torch.device) -> Iterator[Row]:
    """What training exchanges: gradients, features with their gradients, chosen samples."""
    values = torch.arange(8.0, device=device, requires_grad=True)
    summed = values.detach().clone()
    dist.all_reduce(summed)
    yield holds(f"{backend}: gradients are added up", torch.equal(summed, values.detach()))
    (gathered,) = all_gather(values)
    gathered.square().sum().backward()
    assert values.grad is not None
    there = torch.equal(gathered, values) and torch.equal(values.grad, 2 * values.detach())
    yield holds(f"{backend}: features are gathered, gradients come back", there)
    sent, received = (
        torch.arange(6, dtype=torch.uint8, device=device).view(3, 2),
        torch.empty(3, 2, device=device).byte(),
    )
    dist.all_to_all_single(received, sent, [3], [3])
    yield holds(f"{backend}: samples are exchanged", torch.equal(sent, received))


def _devices() -> Iterator[Row]:
    """What each of eight ranks would take, of eight GPUs."""
    for name, common, rank, local in (
        ("srun", SRUN, "SLURM_PROCID", "SLURM_LOCALID"),
        ("torchrun", TORCHRUN, "RANK", "LOCAL_RANK"),
    ):
        chosen = []
        for number in range(8):
            machine, place = join(Machine("gpu"), common | {rank: str(number), local: str(number)}, num_gpus=8)
            assert place is not None
            assert isinstance(machine.devices, list)
            chosen.append(machine.devices[place.local_rank])
        yield holds(f"{name}: every rank has a GPU of its own", sorted(chosen) == list(range(8)), str(chosen))
