"""The pool and the subset as a LightningDataModule: training on the kept samples straight from the shards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any

import lightning as L
import numpy as np

from clipsift_common.clip import get_tokenizer, model_config
from clipsift_common.data_report import DataReport
from clipsift_common.distributed import on_rank_zero, rank, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import Contents, array_fingerprint, read_json
from clipsift_common.images import MAX_PIXELS
from selection.pool.index import SHARD_CACHE_GB, PoolIndex
from selection.pool.location import Pool, Shard
from selection.pool.packed.shards import unpack_command
from selection.pool.volumes.kept import KeptRows
from selection.samples.fields import Fields
from selection.subset import Subset
from training.loading.encoded import EncodedDataset
from training.loading.gpu_decode import check_gpu_decoding
from training.loading.loader import CPU, GlobalBatchLoader, StepDataset
from training.loading.order import SampleOrder
from training.loading.permutation import Sampling
from training.loading.transform import Decode, TrainTransform

logger = logging.getLogger("clipsift")

REMOTE_WINDOW = 16  # shards


NUMBERS = ("samples_seen", "global_batch", "workers", "sampling", "max_loss", "weights", "shuffle_window")


def check_numbers(
    samples_seen: int,
    global_batch: int,
    workers: int,
    sampling: Sampling,
    max_loss: float,
    weights: dict[str, float] | None,
    shuffle_window: int | None,
) -> None:
    """Refuse settings of :class:`PoolDataModule` (those of :data:`NUMBERS`) that are out of range or contradict."""
    for name, value, least in (
        ("samples_seen", samples_seen, 1),
        ("global_batch", global_batch, 1),
        ("workers", workers, 0),
        ("shuffle_window", shuffle_window or 0, 0),
    ):
        if value < least:
            raise ClipsiftError(f"{name}: {value} is below {least}")
    if not 0 <= max_loss <= 1:
        raise ClipsiftError(f"max_loss: {max_loss} is not in [0, 1]")
    if weights and sampling != "resampled":
        raise ClipsiftError("data.weights: need data.sampling resampled; a shuffled pass has every sample once")


def check_world(global_batch: int, num_ranks: int) -> None:
    """Refuse a number of ranks that does not divide the global batch."""
    if global_batch % num_ranks:
        raise ClipsiftError(
            f"global_batch: {num_ranks} ranks do not divide {global_batch}; "
            "take another number of devices, or another global_batch (which makes it another experiment)"
        )


class PoolDataModule(L.LightningDataModule):
    """Kept samples of a pool as training batches, filtered on the fly.

    Args:
        pool: where the shards are (see :class:`selection.pool.location.Pool`).
        out: run directory.
        model: open_clip architecture name or JSON file; says how pixels and captions are prepared.
        samples_seen: training budget in samples, whatever the size of the subset (repeats included). Rounded **up**
            to whole global batches, as DataComp does.
        global_batch: samples per step over all ranks, which must divide it.
        workers: DataLoader workers of each rank; 0 reads in the main process.
        sampling: ``shuffled`` (every kept sample once per pass) or ``resampled`` (with replacement).
        weights: for ``resampled``: how much more often than others the samples of some shards are drawn, by patterns of
            shard names or addresses (``{"dfn-*": 2.0}``). The first pattern that fits counts; other shards have 1.
        shuffle_window: shards that are read at a time, whose samples are shuffled among themselves
            (:class:`training.loading.order.SampleOrder`); 0 shuffles over the whole subset. By default 0 for local
            pools and 16 for remote ones, whose shards are then fetched whole, one window ahead; with 0, each sample of
            a remote pool is a request of its own.
        fields: which members of a tar make a sample.
        shard_cache_gb: gigabytes of remote and unpacked shards that are kept on this machine, under ``cache``.
        seed: of order and crops.
        max_loss: share of samples that may be lost to damage, in [0, 1]; above it the run stops.
        decode: ``fast``, ``exact`` for open_clip's pixels to the last bit (:mod:`training.loading.transform`), or
            ``gpu`` to decode JPEGs on a GPU, where a node has few cores for it (:mod:`training.loading.encoded`).
        max_pixels: an image with more is not decoded.
        cache: where the pool's index lies; default ``<out>/cache``.
        subset: a subset file; without it the run's own selection is used (``<out>/selection/subset.npy``), and made by
            ``obtain`` if it does not exist.
        stall_seconds: when no batch has come for so long, a line says which rank, worker and shard is waited for
            (:mod:`training.loading.stall`); 0: never.

    Attributes:
        num_drawn: samples read per step; more than ``global_batch`` when the best of them are chosen while training
            (:mod:`training.online`).
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
        decode: Decode = "fast",
        max_pixels: int = MAX_PIXELS,
        cache: str | None = None,
        subset: str | None = None,
        stall_seconds: float = 120.0,
        weights: dict[str, float] | None = None,
        shuffle_window: int | None = None,
        shard_cache_gb: float = SHARD_CACHE_GB,
        fields: Fields | None = None,
    ) -> None:
        super().__init__()
        self.pool, self.out, self.model = pool, out, model
        self.samples_seen, self.global_batch, self.workers = samples_seen, global_batch, workers
        self.sampling: Sampling = sampling
        self.decode: Decode = decode
        self.seed, self.max_loss, self.max_pixels = seed, max_loss, max_pixels
        self.cache = cache or str(Path(out) / "cache")
        self.subset, self.stall_seconds = subset, stall_seconds
        self.weights, self.shuffle_window, self.shard_cache_gb = weights, shuffle_window, shard_cache_gb
        self.fields = fields or Fields()
        self.num_drawn = global_batch
        self.obtain: Callable[[], Path] | None = None
        self.index: PoolIndex | None = None
        self.order: SampleOrder | None = None
        self._file: Path | None = None
        self._fingerprint: str | None = None
        check_numbers(samples_seen, global_batch, workers, sampling, max_loss, weights, shuffle_window)

    @property
    def total_steps(self) -> int:
        """Steps of the whole run: samples_seen / global_batch, rounded up."""
        return -(-self.samples_seen // self.global_batch)

    def subset_file(self) -> Path:
        """The subset to train on: the file's, or the run's own, which is selected now if it was not before."""
        if self._file is None:
            own = Path(self.out) / "selection" / "subset.npy"
            if self.subset is None and self.obtain is None and not own.is_file():
                raise ClipsiftError(f"subset: {own} does not exist; select first, or give a subset file")
            self._file = Path(self.subset or (self.obtain() if self.obtain else own))
        return self._file

    def subset_fingerprint(self) -> str:
        """What tells the subset's uids from others; a collective call, unless the subset was given to :meth:`use`."""
        if self._fingerprint is None:
            file = self.subset_file()
            contents = Contents(Path(self.cache) / "contents" / "subsets", _uids_fingerprint)
            self._fingerprint = on_rank_zero(lambda: contents.of(str(file)))
        return self._fingerprint

    def earlier_losses(self) -> DataReport:
        """What the pool lost before training: the selection's count when there is one, else the index's."""
        report = Path(self.out) / "selection" / "data_report.json"
        if report.is_file():
            return DataReport.from_dict(read_json(report))
        assert self.index is not None, "setup comes first"
        return DataReport().merge(self.index.report)

    def settings(self) -> dict[str, Any]:
        """What of the data a run's result depends on, as plain values."""
        names = ("samples_seen", "global_batch", "sampling", "weights", "shuffle_window", "decode", "seed")
        return {name: getattr(self, name) for name in names} | {"subset": self.subset_fingerprint()}

    def setup(self, stage: str) -> None:
        if self.order is not None:
            return
        check_world(self.global_batch, self.trainer.world_size if self.trainer else world_size())
        subset = self.subset_fingerprint()
        index = self.open_index()
        self._train_on(index, index.kept(subset, lambda: Subset.load(self.subset_file())))

    def open_index(self) -> PoolIndex:
        """The pool's index, built when it is not there; a collective call."""
        pool = Pool.shared(self.pool, self.fields)
        by_claims = self.shuffle_window != 0  # single samples are asked for by their places, which claims do not have
        return PoolIndex.build(pool, self.cache, self.workers, self.max_loss, self.shard_cache_gb, by_claims)

    def use(self, index: PoolIndex, subset: Subset) -> None:
        """Train on ``subset`` of an index that is open already; ``setup`` then has nothing to do.

        Raises:
            ClipsiftError: for an empty subset, or one of which the pool has nothing.
        """
        rows = index.rows_of(subset)
        self._fingerprint = array_fingerprint(subset.uids)
        self._train_on(index, KeptRows(rows, len(subset), 0))

    def _train_on(self, index: PoolIndex, kept: KeptRows) -> None:
        rows = kept.rows
        if not kept.num_wanted:
            raise ClipsiftError(f"subset: {self.subset or 'the selection'} is empty; keep more")
        if not len(rows):
            raise ClipsiftError(
                f"subset: 0 of its {kept.num_wanted:,} samples are among the {len(index):,} of pool {self.pool}; "
                "it was made for another pool"
            )
        self.index = index
        window, starts, weights = self._window(index), None, None
        if window or self.weights:
            ends = np.searchsorted(rows, index.starts)
            used = np.flatnonzero(np.diff(ends))
            starts = np.append(ends[used], len(rows))
            weights = (
                shard_weights([index.shards[shard] for shard in used.tolist()], self.weights) if self.weights else None
            )
        how = self.num_drawn, self.seed, self.sampling, starts, window, weights, kept.uids
        self.order = SampleOrder(rows, *how)
        if rank() == 0:
            self._announce(len(rows), kept.num_wanted)

    def _window(self, index: PoolIndex) -> int:
        """The window in shards; also decides how remote shards are read, and sees that the cache can hold two."""
        window = self.shuffle_window
        if window is None:
            window = REMOTE_WINDOW if index.is_streamed else 0
        index.by_ranges = not window and index.is_streamed
        if index.by_ranges and any(shard.url.startswith("pipe:") for shard in index.shards):
            raise ClipsiftError("data.shuffle_window: 0 reads samples one by one, which a pipe: cannot; take 1 or more")
        _check_cache(index, window)
        return window

    def _announce(self, num_rows: int, num_wanted: int) -> None:
        if num_rows < num_wanted:
            logger.warning("subset: %s of its %s samples are in the pool", f"{num_rows:,}", f"{num_wanted:,}")
        if num_rows < self.num_drawn:
            logger.warning(
                "subset: %d samples are fewer than global_batch %d: a batch holds the same sample several times",
                num_rows,
                self.num_drawn,
            )
        logger.info(
            "training on %s samples, %.2f passes, %s steps of %s",
            f"{num_rows:,}",
            self.total_steps * self.num_drawn / num_rows,
            f"{self.total_steps:,}",
            f"{self.global_batch:,}",
        )

    def train_dataloader(self) -> GlobalBatchLoader:
        assert self.index is not None, "setup comes first"
        assert self.order is not None
        trainer = self.trainer
        mine, ranks = (trainer.global_rank, trainer.world_size) if trainer else (rank(), world_size())
        check_world(self.global_batch, ranks)
        transform = TrainTransform(_image_size(self.model), self.seed, self.max_pixels, self.decode)
        parts = self.index, self.order, transform, get_tokenizer(self.model), mine, ranks
        device = trainer.strategy.root_device if trainer else CPU
        how = self.total_steps, self.workers, device, self.stall_seconds
        if self.decode == "gpu":
            check_gpu_decoding(device)
            encoded = EncodedDataset(*parts)
            self.loader = GlobalBatchLoader(encoded, *how, encoded.send)
        else:
            self.loader = GlobalBatchLoader(StepDataset(*parts), *how)
        return self.loader


def _check_cache(index: PoolIndex, window: int) -> None:
    """Refuse a cache that cannot hold what is read at a time: two windows, or without windows all that is in it."""
    needed = sum(sorted(index.cached_sizes())[-2 * window :])
    if needed <= index.cache.limit:
        return
    what, helps = f"two windows of {window} shards are", "or lower data.shuffle_window"
    if not window:
        commands = [command for shard in index.shards if (command := unpack_command(shard.url))]
        unpacking = f"unpack them ({commands[0]} ...), " if commands else ""
        what, helps = "all shards together, unpacked, are", f"{unpacking}or set data.shuffle_window: {REMOTE_WINDOW}"
    text = f"{what} up to {needed / 1e9:.2f} GB, above {index.cache.limit / 1e9:.2f}; raise it, {helps}"
    raise ClipsiftError(f"data.shard_cache_gb: {text}")


def shard_weights(shards: list[Shard], weights: dict[str, float]) -> np.ndarray:
    """(n,) the weight of each shard: that of the first pattern that fits its name, its file's name or its address.

    Raises:
        ClipsiftError: for a pattern that no shard fits, a weight below 0, or nothing left to draw.
    """
    found, used = np.ones(len(shards)), set[str]()
    for number, shard in enumerate(shards):
        names = (shard.name, PurePosixPath(shard.url).name, shard.url)
        fitting = [pattern for pattern in weights if any(fnmatchcase(name, pattern) for name in names)]
        used.update(fitting)
        if fitting:
            found[number] = weights[fitting[0]]
    for pattern, weight in weights.items():
        if pattern not in used:
            raise ClipsiftError(f"data.weights: {pattern} fits none of the {len(shards)} shards with kept samples")
        if not 0 <= weight < float("inf"):
            raise ClipsiftError(f"data.weights: {pattern} has the weight {weight}; it must be a number from 0 up")
    if not found.any():
        raise ClipsiftError("data.weights: all shards have the weight 0")
    return found


def _uids_fingerprint(path: str | Path) -> str:
    return array_fingerprint(Subset.load(path).uids)


def _image_size(model: str) -> tuple[int, int]:
    """(height, width) in pixels of the model's input; 224 is open_clip's default."""
    size = model_config(model)["vision_cfg"].get("image_size", 224)
    return (size, size) if isinstance(size, int) else tuple(size)
