"""From a subset and the original shards to a checkpoint."""

from typing import TYPE_CHECKING

from clipsift_common.lazy import lazy_names

if TYPE_CHECKING:
    from training.batches import batches as batches
    from training.data import PoolDataModule as PoolDataModule
    from training.keep import Keep as Keep
    from training.model import CLIPModule as CLIPModule

_HOMES = {
    "CLIPModule": "training.model",
    "Keep": "training.keep",
    "PoolDataModule": "training.data",
    "batches": "training.batches",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
