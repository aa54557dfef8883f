"""The start of a run's processes: joined when a launcher started them, started by Lightning when none did."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import torch

from clipsift_common.devices import choose_gpus, count_processes, parse_devices, uses_gpus
from clipsift_common.ends.stop import PARENT_VARIABLE
from clipsift_common.errors import ClipsiftError
from clipsift_common.launchers import Environment, Place, find_place, unstarted_tasks
from clipsift_common.machine import LaunchedMachine, Machine, make_fabric
from clipsift_common.quiet import quiet_libraries
from clipsift_common.rendezvous import MeetingStrategy

# What Fabric's command line leaves for Fabric alone; the Trainer would ignore it, so we take it or refuse it.
_FABRIC_VARIABLES = ("LT_CLI_USED", "LT_ACCELERATOR", "LT_STRATEGY", "LT_DEVICES", "LT_NUM_NODES", "LT_PRECISION")
_NODE_VARIABLES = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # by which nodes that nobody launched find each other


def launch(machine: Machine) -> LaunchedMachine:
    """Start the run's processes, or join those that a launcher started.

    Afterwards the process group exists (when there is more than one process), this process's device is torch's current
    one, every line of the program runs on every rank, and Trainers that are made on the machine reuse the group.

    Returns:
        The machine with this process's place, and ``devices`` and ``num_nodes`` filled in.

    Raises:
        ClipsiftError: when the environment contradicts itself or the settings, or the ranks do not meet.
    """
    if isinstance(machine, LaunchedMachine):
        return machine
    quiet_libraries()
    machine, place = join(machine, os.environ, torch.cuda.device_count())
    for name in _FABRIC_VARIABLES if place else (*_FABRIC_VARIABLES, "RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)  # what we start would take a launch of one process for its own
    here = LaunchedMachine(**vars(machine), place=place) if place else machine
    num_local = local_processes(machine)
    several = machine.num_nodes * num_local > 1
    fabric = make_fabric(here, MeetingStrategy(place) if several else "auto")
    if place is None:
        os.environ[PARENT_VARIABLE] = str(os.getpid())
    fabric.launch()
    os.environ.pop(PARENT_VARIABLE, None)
    if fabric.global_rank != 0:
        logging.getLogger("clipsift").setLevel(logging.ERROR)
    if place is None:
        ranks = fabric.global_rank, fabric.world_size, fabric.local_rank
        place = Place("Lightning", *ranks, per_node=num_local, node=fabric.node_rank)
    return LaunchedMachine(**vars(machine), place=place)


def local_processes(machine: Machine) -> int:
    """How many processes a node has of a machine whose ``devices`` are filled in."""
    return len(machine.devices) if isinstance(machine.devices, list) else int(machine.devices)


def join(machine: Machine, environment: Environment, num_gpus: int) -> tuple[Machine, Place | None]:
    """The machine as the launch has it, and this process's place; None when it is the one that starts the others.

    Args:
        machine: the settings.
        environment: variables that the launcher has set, and nothing else, say what was launched.
        num_gpus: that torch sees in this process.

    Raises:
        ClipsiftError: one line, when the environment contradicts itself, the settings, or the GPUs there are.
    """
    precision = environment.get("LT_PRECISION")
    if precision and precision != machine.precision:
        raise ClipsiftError(
            f"fabric run --precision {precision} does not reach the Trainer; "
            f"say --trainer.precision {precision} after the program"
        )
    place = find_place(environment, machine.num_nodes)
    return (_placed(machine, place, num_gpus) if place else _alone(machine, environment, num_gpus)), place


def _alone(machine: Machine, environment: Environment, num_gpus: int) -> Machine:
    wanted = parse_devices(machine.devices)
    tasks = unstarted_tasks(environment)
    if tasks > 1 and wanted is None:
        raise ClipsiftError(
            f"launch: the SLURM job has {tasks} tasks and srun did not start this process; "
            "say srun clipsift ..., or set trainer.devices to run without it"
        )
    missing = [name for name in _NODE_VARIABLES if name not in environment]
    if machine.num_nodes > 1 and missing:
        raise ClipsiftError(
            f"trainer.num_nodes: {machine.num_nodes}, and nothing says which node this is; "
            f"start with srun, torchrun or fabric run, or set {', '.join(missing)}"
        )
    on_gpus = uses_gpus(machine.accelerator, num_gpus)
    return replace(machine, devices=choose_gpus(wanted, num_gpus) if on_gpus else count_processes(machine.devices))


def _placed(machine: Machine, place: Place, num_gpus: int) -> Machine:
    wanted, num_nodes = parse_devices(machine.devices), place.world_size // place.per_node
    asked = len(wanted) if isinstance(wanted, list) else wanted
    if asked is None and machine.num_nodes not in (1, num_nodes):
        raise ClipsiftError(
            f"the launch has {num_nodes} nodes, trainer.num_nodes is {machine.num_nodes}; make them equal"
        )
    if asked is not None and asked * machine.num_nodes != place.world_size:
        raise ClipsiftError(
            f"the launch has {place.world_size} processes, but trainer.devices x trainer.num_nodes is "
            f"{asked * machine.num_nodes}; make them equal, or leave trainer.devices out to take the launch's"
        )
    if not uses_gpus(machine.accelerator, num_gpus):
        count_processes(machine.devices)  # names no GPUs
        return replace(machine, devices=place.per_node, num_nodes=num_nodes)
    if place.per_node > 1 == num_gpus and not isinstance(wanted, list):  # the launcher shows each process its own GPU
        return replace(machine, devices=[0], num_nodes=place.world_size)
    if asked not in (None, place.per_node):
        raise ClipsiftError(f"the launch has {place.per_node} processes on each node, trainer.devices is {asked}")
    if wanted is None and num_gpus > 1 and not place.local_known:
        raise ClipsiftError(
            f"launch: rank {place.rank} sees {num_gpus} GPUs and nothing says which is its own; "
            "start torchrun on each node, or set LOCAL_RANK and LOCAL_WORLD_SIZE"
        )
    if wanted is None and place.per_node > num_gpus:
        raise ClipsiftError(f"the launch has {place.per_node} processes on this node, torch sees {num_gpus} GPUs")
    gpus = choose_gpus(place.per_node if wanted is None else wanted, num_gpus)
    return replace(machine, devices=gpus, num_nodes=num_nodes)
