"""What Lightning asks of a launcher, answered by a process's place."""

from __future__ import annotations

from lightning.fabric.plugins.environments import ClusterEnvironment

from clipsift_common.launchers import Place


class PlaceEnvironment(ClusterEnvironment):
    """Lightning reads other variables than we do, and believes a SLURM job whose tasks nobody started.

    Args:
        place: of this process.
        num_nodes: as Lightning counts them. As many as processes means that each has a node to itself, or that the
            launcher shows each its own GPU only.
    """

    creates_processes_externally = True

    def __init__(self, place: Place, num_nodes: int) -> None:
        super().__init__()
        self.place, self.each_alone = place, num_nodes == place.world_size

    @property
    def main_address(self) -> str:
        return self.place.address

    @property
    def main_port(self) -> int:
        return self.place.port

    @staticmethod
    def detect() -> bool:
        return False  # it is given, never found

    def world_size(self) -> int:
        return self.place.world_size

    def set_world_size(self, size: int) -> None:
        """The launch has said it."""

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        """The launch has said it."""

    def local_rank(self) -> int:
        return 0 if self.each_alone else self.place.local_rank

    def node_rank(self) -> int:
        return self.place.rank if self.each_alone else self.place.node
