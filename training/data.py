"""The pool and the subset as a LightningDataModule: training on the kept samples straight from the shards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L

from common.clip import get_tokenizer, model_config
from common.data_report import DataReport
from common.distributed import rank, world_size
from common.errors import ClipsiftError
from common.files import array_fingerprint, read_json
from common.images import MAX_PIXELS
from selection.index import PoolIndex
from selection.pool import Pool
from selection.subset import Subset
from training.loader import GlobalBatchLoader, SampleOrder, StepDataset
from training.order import Sampling
from training.transform import TrainTransform

logger = logging.getLogger("clipsift")


class PoolDataModule(L.LightningDataModule):
    """Kept samples of a pool as training batches, filtered on the fly.

    Args:
        pool: where the shards are (see :class:`selection.pool.Pool`).
        out: run directory.
        model: open_clip architecture name or JSON file; says how pixels and captions are prepared.
        samples_seen: training budget in samples, whatever the size of the subset (repeats included). Rounded **up**
            to whole global batches, as DataComp does.
        global_batch: samples per step over all ranks, which must divide it.
        workers: DataLoader workers of each rank; 0 reads in the main process.
        sampling: ``shuffled`` (every kept sample once per pass) or ``resampled`` (with replacement).
        seed: of order and crops.
        max_loss: share of samples that may be lost to damage, in [0, 1]; above it the run stops.
        max_pixels: an image with more is not decoded.
        cache: where the pool's index lies; default ``<out>/cache``.
        subset: a subset file; without it the run's own selection is used (``<out>/selection/subset.npy``), and made by
            ``obtain`` if it does not exist.

    Attributes:
        obtain: makes (or finds) the run's selection, over all ranks, and returns the subset file; None: it must exist.
    """

    def __init__(
        self,
        pool: str,
        out: str,
        model: str,
        samples_seen: int,
        global_batch: int,
        workers: int = 4,
        sampling: Sampling = "shuffled",
        seed: int = 0,
        max_loss: float = 0.01,
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
        subset: str | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.out, self.model = pool, out, model
        self.samples_seen, self.global_batch, self.workers = samples_seen, global_batch, workers
        self.sampling: Sampling = sampling
        self.seed, self.max_loss, self.max_pixels = seed, max_loss, max_pixels
        self.cache = cache or str(Path(out) / "cache")
        self.subset = subset
        self.obtain: Callable[[], Path] | None = None
        self.index: PoolIndex | None = None
        self.order: SampleOrder | None = None
        self._kept: Subset | None = None
        self._check_settings()

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: samples_seen / global_batch, rounded up."""
        return -(-self.samples_seen // self.global_batch)

    def _check_settings(self) -> None:
        for name, value, least in (
            ("samples_seen", self.samples_seen, 1),
            ("global_batch", self.global_batch, 1),
            ("workers", self.workers, 0),
        ):
            if value < least:
                raise ClipsiftError(f"{name}: {value} is below {least}")
        if not 0 <= self.max_loss <= 1:
            raise ClipsiftError(f"max_loss: {self.max_loss} is not in [0, 1]")

    def check_world(self, num_ranks: int) -> None:
        """Refuse a number of ranks that does not divide the global batch."""
        if self.global_batch % num_ranks:
            raise ClipsiftError(
                f"global_batch: {num_ranks} ranks do not divide {self.global_batch}; "
                "take another number of devices, or another global_batch (which makes it another experiment)"
            )

    def kept(self) -> Subset:
        """The subset to train on: the file's, or the run's own, which is selected now if it was not before."""
        if self._kept is None:
            own = Path(self.out) / "selection" / "subset.npy"
            if self.subset is None and self.obtain is None and not own.is_file():
                raise ClipsiftError(f"subset: {own} does not exist; select first, or give a subset file")
            self._kept = Subset.load(self.subset or (self.obtain() if self.obtain else own))
        return self._kept

    def earlier_losses(self) -> DataReport:
        """What the pool lost before training: the selection's count when there is one, else the index's."""
        report = Path(self.out) / "selection" / "data_report.json"
        if report.is_file():
            return DataReport.from_dict(read_json(report))
        assert self.index is not None, "setup comes first"
        return DataReport().merge(self.index.report)

    def settings(self) -> dict[str, Any]:
        """What of the data a run's result depends on, as plain values."""
        names = ("samples_seen", "global_batch", "sampling", "seed")
        return {name: getattr(self, name) for name in names} | {"subset": array_fingerprint(self.kept().uids)}

    def setup(self, stage: str) -> None:
        if self.order is not None:
            return
        self.check_world(self.trainer.world_size if self.trainer else world_size())
        kept = self.kept()
        index = PoolIndex.build(Pool(self.pool), self.cache, workers=self.workers, max_loss=self.max_loss)
        self.use(index, kept)

    def use(self, index: PoolIndex, subset: Subset) -> None:
        """Train on ``subset`` of an index that is open already; ``setup`` then has nothing to do.

        Raises:
            ClipsiftError: for an empty subset, or one of which the pool has nothing.
        """
        if not len(subset):
            raise ClipsiftError(f"subset: {self.subset or 'the selection'} is empty; keep more")
        rows = index.rows_of(subset)
        if not len(rows):
            raise ClipsiftError(
                f"subset: 0 of its {len(subset):,} samples are among the {len(index):,} of pool {self.pool}; "
                "it was made for another pool"
            )
        self.index, self._kept = index, subset
        self.order = SampleOrder(rows, self.global_batch, self.seed, self.sampling)
        if rank() == 0:
            self._announce(len(rows), len(subset))

    def _announce(self, num_rows: int, num_wanted: int) -> None:
        if num_rows < num_wanted:
            logger.warning("subset: %s of its %s samples are in the pool", f"{num_rows:,}", f"{num_wanted:,}")
        if num_rows < self.global_batch:
            logger.warning(
                "subset: %d samples are fewer than global_batch %d: a batch holds the same sample several times",
                num_rows,
                self.global_batch,
            )
        logger.info(
            "training on %s samples, %.2f passes, %s steps of %s",
            f"{num_rows:,}",
            self.total_steps * self.global_batch / num_rows,
            f"{self.total_steps:,}",
            f"{self.global_batch:,}",
        )

    def train_dataloader(self) -> GlobalBatchLoader:
        assert self.index is not None, "setup comes first"
        assert self.order is not None
        trainer = self.trainer
        mine, ranks = (trainer.global_rank, trainer.world_size) if trainer else (rank(), world_size())
        self.check_world(ranks)
        transform = TrainTransform(_image_size(self.model), self.seed, self.max_pixels)
        dataset = StepDataset(self.index, self.order, transform, get_tokenizer(self.model), mine, ranks)
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        self.loader = GlobalBatchLoader(dataset, self.total_steps, self.workers, pin_memory=on_gpu)
        return self.loader


def _image_size(model: str) -> tuple[int, int]:
    """(height, width) in pixels of the model's input; 224 is open_clip's default."""
    size = model_config(model)["vision_cfg"].get("image_size", 224)
    return (size, size) if isinstance(size, int) else tuple(size)
