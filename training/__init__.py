"""From a subset and the original shards to a checkpoint."""

from training.data import PoolDataModule
from training.model import CLIPModule

__all__ = ["CLIPModule", "PoolDataModule"]
