"""The features of chosen rows of the pool, for methods that look at many samples at once: memory mapped, not held."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from common.errors import ClipsiftError
from common.progress import track
from selection.features import FeatureFile, bad_rows
from selection.moments import gram
from selection.subsets import Candidates

GPU_SHARE = 0.5  # of the free memory of a GPU: features that take less are kept there


@dataclass
class PoolFeatures:
    """Features by row of the pool, where ``files`` follow one another.

    Args:
        files: the metadata, in pool order.
        device: where methods work when the chosen features fit.
        target: features of a target set by name.
        scratch: an existing folder for one uncompressed, unnamed file per tower, as large as the chosen features.
    """

    files: Sequence[FeatureFile]
    device: torch.device
    target: Callable[[str], Tensor]
    scratch: Path

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(file.num_rows() for file in self.files)])

    def candidates(self, rows: np.ndarray, needs: tuple[str, ...], seed: int) -> tuple[Candidates, np.ndarray]:
        """Of ``rows`` (m,) ascending, those whose features are finite and not zero, and the (m,) mask of these.

        Raises :class:`ClipsiftError` for files that cannot be read or differ in width.
        """
        usable = np.zeros(len(rows), bool)
        stores: dict[str, np.memmap] = {}
        num_usable = 0
        for span, parts in self._read(rows, needs):
            usable[span] = ~np.any([bad_rows(part) for part in parts.values()], axis=0)
            stop = num_usable + int(np.count_nonzero(usable[span]))
            for tower, part in parts.items():
                if tower not in stores:
                    stores[tower] = _store(self.scratch, part.dtype, (len(rows), part.shape[1]))
                if part.shape[1] != stores[tower].shape[1]:
                    raise ClipsiftError(f"{tower} features of the pool's files differ in width")
                stores[tower][num_usable:stop] = part[usable[span]]
            num_usable = stop
        towers = {tower: self._placed(torch.from_numpy(store[:num_usable])) for tower, store in stores.items()}
        empty = torch.empty(num_usable, 0)
        image, text = towers.get("image", empty), towers.get("text", empty)
        device = next(iter(towers.values()), empty).device
        found = Candidates(image, text, seed, target=lambda name: self.target(name).to(device), moment=self.moment)
        return found, usable

    def moment(self) -> Tensor:
        """(d, d) float32 second moment of the image features of the whole pool, unusable rows left out."""
        total, count = None, 0
        for _, parts in self._read(np.arange(self._starts[-1]), ("image",)):
            good = torch.from_numpy(parts["image"][~bad_rows(parts["image"])])
            part = gram(good.to(self.device)).double()
            total, count = part if total is None else total + part, count + len(good)
        if total is None:
            raise ClipsiftError("the pool has no features")
        return (total / max(count, 1)).float().cpu()

    def _read(self, rows: np.ndarray, needs: tuple[str, ...]) -> Iterator[tuple[slice, dict[str, np.ndarray]]]:
        """Yield, file by file, the span of ``rows`` that is in it and their features by tower."""
        bounds = np.searchsorted(rows, self._starts)
        for number, file in enumerate(track(self.files, "gather features", unit="files")):
            span = slice(int(bounds[number]), int(bounds[number + 1]))
            if span.stop > span.start:
                local = rows[span] - self._starts[number]
                yield span, {tower: getattr(file, tower)()[local] for tower in needs}

    def _placed(self, features: Tensor) -> Tensor:
        if self.device.type == "cuda" and features.nbytes < GPU_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            return features.to(self.device)
        return features


def _store(scratch: Path, dtype: np.dtype, shape: tuple[int, int]) -> np.memmap:
    """A file without a name: gone with the last reference to it, however the program ends."""
    with TemporaryFile(dir=scratch) as file:
        return np.memmap(file, dtype, "w+", shape=shape)
