"""Batches of the kept samples of a pool as a plain iterable, for somebody else's training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.errors import ClipsiftError
from selection.subset import Subset
from training.data import PoolDataModule
from training.loading.loader import Batch, GlobalBatchLoader


class Batches:
    """A run's batches for this process, from the next step to the last; an iterable of ``len(self)`` dicts.

    ``image`` is (b, 3, h, w) uint8, ``text`` (b, context) int64, ``uid`` (b, 2) int64, with b = global batch / number
    of processes; :func:`training.loading.transform.normalise` makes of ``image`` what a model takes. Together the
    processes have the same global batches however many they are.

    Attributes:
        report: what could not be decoded so far, by cause.
    """

    def __init__(self, loader: GlobalBatchLoader) -> None:
        self._loader = loader
        self.report = loader.report

    def __len__(self) -> int:
        return self._loader.total_steps - self._loader.step

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if "error" in batch:
                raise ClipsiftError(batch["error"])
            yield {name: batch[name] for name in ("image", "text", "uid")}

    def state_dict(self) -> dict[str, Any]:
        """Plain values to keep with a checkpoint; the same on every process."""
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume after the batches that had been given out. Raises :class:`ClipsiftError` for another run's state."""
        self._loader.load_state_dict(state)


def batches(
    pool: str,
    subset: Subset | str | Path | np.ndarray | Iterable[str] | None = None,
    *,
    model: str,
    samples_seen: int,
    global_batch: int,
    cache: str | Path,
    **settings: Any,
) -> Batches:
    """The kept samples of ``pool`` as batches, filtered on the fly, without a Trainer.

    With a process group (torch.distributed) every process calls, and gets its share.

    Args:
        pool: where the shards are (see :class:`selection.pool.location.Pool`).
        subset: what to train on, as :meth:`Subset.of` takes it; None: every sample of the pool.
        model: open_clip architecture name or JSON file; says how pixels and captions are prepared.
        samples_seen: samples of the whole run, repeats included; rounded up to whole global batches.
        global_batch: samples per step over all processes, which must divide it.
        cache: folder for the pool's index, made at the first call and used again.
        settings: others of :class:`training.data.PoolDataModule`, such as ``workers`` and ``seed``.

    Raises:
        ClipsiftError: for settings out of range, a pool that cannot be read, a subset of another pool.
    """
    cache = Path(cache)
    data = PoolDataModule(
        pool=pool,
        out=str(cache),
        model=model,
        samples_seen=samples_seen,
        global_batch=global_batch,
        cache=str(cache),
        **settings,
    )
    if isinstance(subset, str | Path):
        data.subset = str(subset)
        data.setup("fit")
    else:
        index = data.open_index()
        kept = Subset(index.uids) if subset is None else subset if isinstance(subset, Subset) else Subset.of(subset)
        data.use(index, kept)
    return Batches(data.train_dataloader())
