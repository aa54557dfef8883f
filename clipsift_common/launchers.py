"""Which process of how many this is, as the environment of its launcher says. Nothing is started or asked here.

Launchers: torchrun and ``fabric run``; a Kubernetes PyTorchJob; ``mpirun`` and ``mpiexec``; srun; and Lightning, which
starts the processes of a plain command.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from lightning.fabric.plugins.environments import SLURMEnvironment

from clipsift_common.errors import ClipsiftError

Environment = Mapping[str, str]

_PORT = 29500  # where ranks meet, when neither launcher nor user says
_SHELLS = ("bash", "interactive")  # names of SLURM jobs in which commands are typed, each a process of its own


@dataclass(frozen=True)
class Place:
    """A process in its launch.

    Attributes:
        launcher: who started it, for messages.
        rank: among ``world_size`` processes, from 0.
        local_rank: among the ``per_node`` processes of its machine, from 0.
        node: number of its machine, from 0.
        address, port: where the ranks meet.
        attempt: which start of the same launch this is (torchrun starts a failed group again).
        hosted: whether the launcher itself answers at ``port``, rather than rank 0.
        local_known: whether the launcher said how many processes this machine has.
    """

    launcher: str
    rank: int
    world_size: int
    local_rank: int = 0
    per_node: int = 1
    node: int = 0
    address: str = "127.0.0.1"
    port: int = _PORT
    attempt: int = 0
    hosted: bool = False
    local_known: bool = True


def find_place(environment: Environment, num_nodes: int = 1) -> Place | None:
    """This process's place, None when it is alone: started by itself, or the only one of its launch.

    Args:
        num_nodes: of the settings; what Lightning starts on a node knows its number only by them.

    Raises:
        ClipsiftError: when the variables contradict each other, or say that there is company which they do not name.
    """
    for find in (_started_by_lightning, _torch, _open_mpi, _hydra, _slurm, _pmi):
        place = find(environment, num_nodes)
        if place is not None:
            _check(place)
            return place if place.world_size > 1 or place.launcher in ("torchrun", "Lightning") else None
    _refuse_unnamed_company(environment)
    return None


def _started_by_lightning(environment: Environment, num_nodes: int) -> Place | None:
    if "LOCAL_RANK" not in environment or "RANK" in environment:
        return None
    local_rank, world_size = _read(environment, "LOCAL_RANK"), _read(environment, "WORLD_SIZE")
    per_node = max(1, world_size // num_nodes)
    node = _number(environment, "NODE_RANK", 0)
    place = Place("Lightning", node * per_node + local_rank, world_size, local_rank, per_node, node)
    return _meeting(place, environment)


def _torch(environment: Environment, num_nodes: int) -> Place | None:
    if "RANK" not in environment and "WORLD_SIZE" not in environment:
        return None
    rank, world_size = _read(environment, "RANK"), _read(environment, "WORLD_SIZE")
    if "LOCAL_RANK" not in environment:  # a PyTorchJob: one process in each pod
        if environment.get("PET_NPROC_PER_NODE", "1") != "1":
            per_pod = environment["PET_NPROC_PER_NODE"]
            raise ClipsiftError(f"launch: PET_NPROC_PER_NODE is {per_pod}; start torchrun, which starts so many")
        return _meeting(Place("PyTorchJob", rank, world_size, node=rank, local_known=False), environment)
    local_rank = _number(environment, "LOCAL_RANK", 0)
    per_node = _number(environment, "LOCAL_WORLD_SIZE", world_size)
    place = Place("torchrun", rank, world_size, local_rank, per_node, _number(environment, "GROUP_RANK", 0))
    attempt = _number(environment, "TORCHELASTIC_RESTART_COUNT", 0)
    hosted = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return _meeting(replace(place, attempt=attempt, hosted=hosted), environment)


def _open_mpi(environment: Environment, num_nodes: int) -> Place | None:
    prefix = "OMPI_COMM_WORLD_"
    return _mpi(environment, f"{prefix}RANK", f"{prefix}SIZE", f"{prefix}LOCAL_RANK", f"{prefix}LOCAL_SIZE")


def _hydra(environment: Environment, num_nodes: int) -> Place | None:
    """MPICH's and Intel's mpiexec; before SLURM, inside of which it may have started more than srun did."""
    if "MPI_LOCALRANKID" not in environment:
        return None
    return _mpi(environment, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")


def _pmi(environment: Environment, num_nodes: int) -> Place | None:
    return _mpi(environment, "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE")


def _mpi(environment: Environment, rank: str, size: str, local_rank: str, local_size: str) -> Place | None:
    if rank not in environment and size not in environment:
        return None
    place = Place("MPI", _read(environment, rank), _read(environment, size), local_known=local_rank in environment)
    if place.local_known:
        per_node = _number(environment, local_size, 1)
        place = replace(place, local_rank=_read(environment, local_rank), per_node=per_node)
    place = replace(place, node=place.rank // place.per_node)
    return _meeting(place, environment)


def _slurm(environment: Environment, num_nodes: int) -> Place | None:
    """A task of a step. SLURM_PROCID and SLURM_NTASKS are also in a batch script and in salloc's shell."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    if tasks is None or environment.get("SLURM_NTASKS", tasks) != tasks or _is_shell(environment):
        return None
    world_size, nodes = _read(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_STEP_NUM_NODES", 1)
    counts = environment.get("SLURM_STEP_TASKS_PER_NODE", str(world_size // nodes))
    if not re.fullmatch(r"\d+(\(x\d+\))?", counts):
        raise ClipsiftError(f"launch: the nodes have {counts} tasks; give each as many: srun --ntasks-per-node")
    per_node, node = int(counts.split("(")[0]), _number(environment, "SLURM_NODEID", 0)
    place = Place("srun", _read(environment, "SLURM_PROCID"), world_size, node=node, per_node=per_node)
    hosts = environment.get("SLURM_STEP_NODELIST", environment.get("SLURM_NODELIST", "127.0.0.1"))
    number = _number(environment, "SLURM_JOB_ID", 0) + 97 * _number(environment, "SLURM_STEP_ID", 0)
    address, port = SLURMEnvironment.resolve_root_node_address(hosts), 15000 + number % 10000
    place = replace(place, local_rank=_read(environment, "SLURM_LOCALID"), address=address, port=port)
    return _meeting(place, environment)


def _is_shell(environment: Environment) -> bool:
    return environment.get("SLURM_JOB_NAME") in _SHELLS


def _meeting(place: Place, environment: Environment) -> Place:
    """``place`` with the address and port of the environment, where it has them."""
    needs_address = place.launcher in ("PyTorchJob", "MPI", "torchrun") and place.world_size > place.per_node
    if "MASTER_ADDR" not in environment and needs_address:
        raise ClipsiftError(
            f"launch: {place.world_size} processes on several machines and no MASTER_ADDR; "
            "set it to the host of rank 0 (mpirun -x MASTER_ADDR=HOST)"
        )
    address = environment.get("MASTER_ADDR", place.address)
    return replace(place, address=address, port=_number(environment, "MASTER_PORT", place.port))


def _check(place: Place) -> None:
    if not 0 <= place.rank < place.world_size:
        raise ClipsiftError(f"launch: this is rank {place.rank} of {place.world_size} processes; ranks count from 0")
    if not 0 <= place.local_rank < place.per_node:
        text = f"local rank {place.local_rank} of {place.per_node} processes on its machine"
        raise ClipsiftError(f"launch: rank {place.rank} is {text}; local ranks count from 0")
    if place.world_size % place.per_node:
        text = f"{place.world_size} processes, {place.per_node} on this machine"
        raise ClipsiftError(f"launch: {text}; start equally many on each")


def _refuse_unnamed_company(environment: Environment) -> None:
    """Other machines were given the same command, and nothing says who is who: each would train alone."""
    if environment.get("PET_NNODES", "1") != "1":
        raise ClipsiftError(f"launch: PET_NNODES is {environment['PET_NNODES']}; start torchrun, which reads it")


def unstarted_tasks(environment: Environment) -> int:
    """Tasks of the SLURM job whose batch script this process is in: srun has not started them. 1 elsewhere."""
    return 1 if _is_shell(environment) else _number(environment, "SLURM_NTASKS", 1)


def _read(environment: Environment, name: str) -> int:
    if name not in environment:
        raise ClipsiftError(f"launch: {name} is missing, other variables of a launcher are set; set it, or unset them")
    return _number(environment, name, 0)


def _number(environment: Environment, name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not re.fullmatch(r"\d+", text):
        raise ClipsiftError(f"launch: {name} is {text!r}, not a whole number")
    return int(text)
