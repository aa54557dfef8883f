"""Every launcher's environment with every way to name devices: the world, rank and device, or one line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import join
from clipsift_common.launchers import Place
from clipsift_common.machine import LaunchedMachine, Machine, device_of, make_lone_trainer, make_trainer
from helpers.machines import launchers
from helpers.machines.launchers import gpus  # noqa: F401 - a fixture

See = Callable[[int], list[torch.device]]


def joined(variables: dict[str, str], machine: Machine, num_gpus: int) -> LaunchedMachine:
    """As ``launch`` has it, of a process that a launcher started."""
    machine, place = join(machine, variables, num_gpus)
    assert place is not None
    return LaunchedMachine(**vars(machine), place=place)


# Launcher -> environment of a rank of eight, on one machine with eight GPUs.
EIGHT: dict[str, Callable[[int], dict[str, str]]] = {
    "srun": lambda rank: launchers.srun(rank, 8),
    "torchrun": lambda rank: launchers.torchrun(rank, 8),
    "torchrun, started again": lambda rank: launchers.torchrun(rank, 8, restart=2),
    "fabric run": lambda rank: launchers.fabric_run(rank, 8),
    "mpirun": lambda rank: launchers.open_mpi(rank, 8),
    "mpiexec": lambda rank: launchers.hydra(rank, 8),
    "mpirun in an sbatch script": lambda rank: launchers.sbatch(8) | launchers.open_mpi(rank, 8),
    "torchrun in a step of one task": lambda rank: launchers.srun(0, 1) | launchers.torchrun(rank, 8),
    "Lightning": lambda rank: launchers.lightning(rank, 8),
    "Lightning in a step of one task": lambda rank: launchers.srun(0, 1) | launchers.lightning(rank, 8),
}
# trainer.devices -> the GPU of each of eight ranks on a machine with twelve, or words of the refusal.
WAYS: list[tuple[int | str | list[int], int, list[int] | str]] = [
    ("auto", 8, list(range(8))),
    (-1, 8, list(range(8))),
    ("-1", 8, list(range(8))),
    (8, 8, list(range(8))),
    ("8", 12, list(range(8))),
    ("auto", 12, list(range(8))),
    ([4, 5, 6, 7, 8, 9, 10, 11], 12, list(range(4, 12))),
    ("4,5,6,7,8,9,10,11", 12, list(range(4, 12))),
    ("auto", 1, [0] * 8),  # srun --gpus-per-task=1: each task sees its own, by the number 0
    (4, 8, "8 processes, but trainer.devices x trainer.num_nodes is 4"),
    ([2, 3], 8, "8 processes, but trainer.devices x trainer.num_nodes is 2"),
    ("auto", 4, "8 processes on this node, torch sees 4 GPUs"),
    ([0, 1, 2, 3, 4, 5, 6, 8], 8, "torch sees 8 GPUs"),
]


@pytest.mark.parametrize("launcher", EIGHT)
@pytest.mark.parametrize(("devices", "num_gpus", "expected"), WAYS)
def test_eight_ranks_have_a_gpu_each(
    launcher: str,
    devices: int | str | list[int],
    num_gpus: int,
    expected: list[int] | str,
    gpus: See,  # noqa: F811
) -> None:
    gpus(num_gpus)
    for rank in range(8):
        variables = EIGHT[launcher](rank)
        if isinstance(expected, str):
            with pytest.raises(ClipsiftError, match=expected) as caught:
                joined(variables, Machine(devices=devices), num_gpus)
            assert "\n" not in str(caught.value)
            continue
        machine = joined(variables, Machine(devices=devices), num_gpus)
        assert (machine.place.rank, machine.place.world_size) == (rank, 8)
        assert device_of(machine) == torch.device("cuda", expected[rank])


def test_every_stage_s_trainer_is_on_the_rank_s_own_device(gpus: See) -> None:  # noqa: F811
    gpus(8)
    for rank in range(8):
        machine = joined(launchers.srun(rank, 8), Machine(), 8)
        trainer = make_trainer(machine)
        assert (trainer.global_rank, trainer.world_size, trainer.local_rank) == (rank, 8, rank)
        lone = make_lone_trainer(machine)
        assert (lone.global_rank, lone.world_size) == (0, 1)
        assert trainer.strategy.root_device == lone.strategy.root_device == torch.device("cuda", rank)


@pytest.mark.parametrize("launcher", ["srun", "torchrun", "fabric run", "mpirun"])
def test_two_nodes_of_four(launcher: str, gpus: See) -> None:  # noqa: F811
    gpus(4)
    for rank in range(8):
        variables = {
            "srun": launchers.srun(rank, 8, 2),
            "torchrun": launchers.torchrun(rank, 8, 2),
            "fabric run": launchers.fabric_run(rank, 8, 2),
            "mpirun": launchers.open_mpi(rank, 8, 2) | {"MASTER_ADDR": "gpu01"},
        }[launcher]
        for settings in (Machine(), Machine(num_nodes=2), Machine(devices=4, num_nodes=2)):
            machine = joined(variables, settings, 4)
            assert (machine.place.rank, machine.place.node, machine.num_nodes) == (rank, rank // 4, 2)
            assert (machine.place.per_node, machine.place.address) == (4, "gpu01")
            trainer = make_trainer(machine)
            assert (trainer.global_rank, trainer.world_size, trainer.node_rank) == (rank, 8, rank // 4)
            assert trainer.strategy.root_device == torch.device("cuda", rank % 4)
        with pytest.raises(ClipsiftError, match="the launch has 2 nodes"):
            joined(variables, Machine(num_nodes=4), 4)


def test_a_pod_of_a_pytorchjob_is_one_process(gpus: See) -> None:  # noqa: F811
    gpus(1)
    for rank in range(3):
        machine = joined(launchers.pytorchjob(rank, 3), Machine(), 1)
        assert (machine.place.rank, machine.place.world_size, machine.num_nodes) == (rank, 3, 3)
        trainer = make_trainer(machine)
        assert (trainer.global_rank, trainer.world_size, trainer.local_rank) == (rank, 3, 0)
        assert device_of(machine) == torch.device("cuda", 0)
    with pytest.raises(ClipsiftError, match="rank 1 sees 8 GPUs"):
        joined(launchers.pytorchjob(1, 3), Machine(), 8)
    assert joined(launchers.pytorchjob(1, 3), Machine(devices=1, num_nodes=3), 8).devices == [0]
    with pytest.raises(ClipsiftError, match="start torchrun"):
        joined(launchers.pytorchjob(1, 24) | {"PET_NPROC_PER_NODE": "8"}, Machine(), 8)


# A plain command: the settings say how many processes there will be.
@pytest.mark.parametrize(
    ("variables", "devices", "num_gpus", "expected"),
    [
        ({}, "auto", 0, 1),
        ({}, "auto", 8, list(range(8))),
        ({}, -1, 8, list(range(8))),
        ({}, 3, 8, [0, 1, 2]),
        ({}, [2, 3], 8, [2, 3]),
        ({}, "4,5", 8, [4, 5]),
        ({}, "4,", 8, [4]),
        ({}, 2, 0, 2),
        ({}, "-1", 0, "means GPUs, and none is used here"),
        ({}, [2, 3], 0, "means GPUs"),
        ({}, "2,x", 8, "is no number"),
        ({}, 0, 8, "is no number"),
        ({}, [1, 1], 8, "is no number"),
        ({}, 9, 8, "9 asked for, torch sees 8 GPUs"),
        (launchers.srun(0, 1), "auto", 2, [0, 1]),  # a step of one task
        (launchers.pytorchjob(0, 1), 2, 2, [0, 1]),  # a job of one pod
        (launchers.open_mpi(0, 1), "auto", 1, [0]),
        (launchers.salloc(8), "auto", 2, [0, 1]),
        (launchers.salloc(8, "bash"), 2, 2, [0, 1]),
        (launchers.salloc(8, "mine"), "auto", 2, "the SLURM job has 8 tasks and srun did not start this process"),
        (launchers.salloc(8, "mine"), 2, 2, [0, 1]),
        (launchers.sbatch(8), "auto", 8, "the SLURM job has 8 tasks and srun did not start this process"),
        (launchers.sbatch(16, 2), "-1", 8, "say srun clipsift"),
        (launchers.sbatch(8), 8, 8, list(range(8))),
        (launchers.sbatch(1), "auto", 8, list(range(8))),
    ],
)
def test_a_plain_command_starts_its_own(
    variables: dict[str, str], devices: int | str | list[int], num_gpus: int, expected: int | list[int] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(ClipsiftError, match=expected):
            join(Machine(devices=devices), variables, num_gpus)
        return
    machine, place = join(Machine(devices=devices), variables, num_gpus)
    assert (machine.devices, machine.num_nodes, place) == (expected, 1, None)


TORCHRUN, SRUN = launchers.torchrun(1, 4), launchers.srun(1, 4)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RANK": "1"}, "WORLD_SIZE is missing"),
        ({"WORLD_SIZE": "2"}, "RANK is missing"),
        ({"LOCAL_RANK": "0"}, "WORLD_SIZE is missing"),
        (TORCHRUN | {"RANK": "4"}, "rank 4 of 4 processes"),
        (TORCHRUN | {"LOCAL_RANK": "7"}, "local rank 7 of 4"),
        (TORCHRUN | {"LOCAL_WORLD_SIZE": "3"}, "4 processes, 3 on this machine"),
        (TORCHRUN | {"WORLD_SIZE": "four"}, "WORLD_SIZE is 'four', not a whole number"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "no MASTER_ADDR"),
        (launchers.open_mpi(3, 8, 2), "mpirun -x MASTER_ADDR=HOST"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE is missing"),
        ({"PET_NNODES": "2"}, "start torchrun"),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "3,1"}, "ntasks-per-node"),
        (SRUN | {"SLURM_PROCID": "9"}, "rank 9 of 4"),
        (launchers.fabric_run(0, 2) | {"LT_PRECISION": "bf16-mixed"}, "--trainer.precision bf16-mixed"),
    ],
)
def test_an_environment_that_contradicts_itself_is_refused(variables: dict[str, str], words: str) -> None:
    with pytest.raises(ClipsiftError, match=words) as caught:
        join(Machine(accelerator="cpu"), variables, 0)
    assert "\n" not in str(caught.value)


def test_nodes_that_nobody_launched_say_who_they_are() -> None:
    machine = Machine(accelerator="cpu", devices=2, num_nodes=2)
    with pytest.raises(ClipsiftError, match="set NODE_RANK, MASTER_ADDR, MASTER_PORT"):
        join(machine, {}, 0)
    known = {"NODE_RANK": "1", "MASTER_ADDR": "gpu01", "MASTER_PORT": "29400"}
    assert join(machine, known, 0) == (machine, None)
    started = known | {"LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert join(machine, started, 0)[1] == Place("Lightning", 3, 4, 1, 2, 1, "gpu01", 29400)


def test_gpus_asked_for_and_absent_are_refused() -> None:
    with pytest.raises(ClipsiftError, match="torch sees no GPU here"):
        join(Machine(accelerator="gpu"), {}, 0)
    assert join(Machine(accelerator="cpu"), {}, 8)[0].devices == 1
