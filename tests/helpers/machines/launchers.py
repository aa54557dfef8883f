"""Launches without their launchers: what each leaves in the environment of a rank, and GPUs that are not there."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

Variables = dict[str, str]


def srun(rank: int, tasks: int, nodes: int = 1) -> Variables:
    """A task of a step, as Slurm 23 sets it inside of ``sbatch --nodes NODES --ntasks-per-node``."""
    per_node = tasks // nodes
    node, local = divmod(rank, per_node)
    counts = str(per_node) + (f"(x{nodes})" if nodes > 1 else "")
    hosts = f"gpu[01-{nodes:02d}]" if nodes > 1 else "gpu01"
    return sbatch(tasks, nodes) | {
        "SLURM_STEP_ID": "0",
        "SLURM_STEPID": "0",
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": counts,
        "SLURM_STEP_NODELIST": hosts,
        "SLURM_STEP_LAUNCHER_PORT": "38611",
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local),
        "SLURM_NODEID": str(node),
    }


def sbatch(tasks: int, nodes: int = 1) -> Variables:
    """The batch script itself: it has a PROCID and a number of tasks, although no task was started."""
    return {
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NAME": "clipsift",
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_NNODES": str(nodes),
        "SLURM_NTASKS": str(tasks),
        "SLURM_NPROCS": str(tasks),
        "SLURM_NTASKS_PER_NODE": str(tasks // nodes),
        "SLURM_TASKS_PER_NODE": str(tasks // nodes) + (f"(x{nodes})" if nodes > 1 else ""),
        "SLURM_NODELIST": f"gpu[01-{nodes:02d}]" if nodes > 1 else "gpu01",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
    }


def salloc(tasks: int, name: str = "interactive") -> Variables:
    """The shell of ``salloc``: with interactive steps on, it is a step of one task that keeps the job's numbers."""
    return sbatch(tasks) | {
        "SLURM_JOB_NAME": name,
        "SLURM_STEP_ID": "4294967290",
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_TASKS_PER_NODE": "1",
    }


def torchrun(rank: int, processes: int, nodes: int = 1, restart: int = 0) -> Variables:
    """A worker of ``torchrun --nnodes NODES``; ``fabric run`` starts it, too."""
    per_node = processes // nodes
    node, local = divmod(rank, per_node)
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(per_node),
        "GROUP_RANK": str(node),
        "GROUP_WORLD_SIZE": str(nodes),
        "ROLE_RANK": str(rank),
        "MASTER_ADDR": "gpu01",
        "MASTER_PORT": "29400",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": str(restart),
        "TORCHELASTIC_MAX_RESTARTS": "3",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def fabric_run(rank: int, processes: int, nodes: int = 1) -> Variables:
    """What ``fabric run`` adds for Fabric."""
    own = {"LT_CLI_USED": "1", "LT_DEVICES": str(processes // nodes), "LT_NUM_NODES": str(nodes)}
    return torchrun(rank, processes, nodes) | own


def pytorchjob(rank: int, pods: int) -> Variables:
    """A pod of Kubeflow's PyTorchJob."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(pods),
        "MASTER_ADDR": "run-master-0",
        "MASTER_PORT": "23456",
        "PET_NNODES": str(pods),
        "PET_NODE_RANK": str(rank),
        "PET_MASTER_ADDR": "run-master-0",
    }


def open_mpi(rank: int, processes: int, nodes: int = 1) -> Variables:
    """A process of ``mpirun``."""
    per_node = processes // nodes
    prefix = "OMPI_COMM_WORLD_"
    return {
        f"{prefix}RANK": str(rank),
        f"{prefix}SIZE": str(processes),
        f"{prefix}LOCAL_RANK": str(rank % per_node),
        f"{prefix}LOCAL_SIZE": str(per_node),
        "OMPI_UNIVERSE_SIZE": str(processes),
    }


def hydra(rank: int, processes: int) -> Variables:
    """A process of MPICH's ``mpiexec`` on one machine."""
    return {
        "PMI_RANK": str(rank),
        "PMI_SIZE": str(processes),
        "MPI_LOCALRANKID": str(rank),
        "MPI_LOCALNRANKS": str(processes),
    }


def lightning(rank: int, processes: int) -> Variables:
    """A process that Lightning has started on one machine."""
    return {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "45555",
    }


PREFIXES = ("SLURM_", "OMPI_", "PMI_", "MPI_", "PET_", "TORCHELASTIC_", "LT_")
NAMES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_ADDR",
    "MASTER_PORT",
)


def become(monkeypatch: pytest.MonkeyPatch, variables: Variables) -> None:
    """This process has ``variables`` of a launcher, and no others."""
    for name in [name for name in os.environ if name.startswith(PREFIXES) or name in NAMES]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # Trainers tell Lightning their rank; the tests to come are rank 0 again.
    monkeypatch.setattr(rank_zero_only, "rank", getattr(rank_zero_only, "rank", 0), raising=False)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[torch.device]]:
    """``gpus(8)``: torch and Lightning see so many GPUs; returns the list of those that were made the current one."""

    def see(count: int) -> list[torch.device]:
        chosen: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H100")
        return chosen

    return see
