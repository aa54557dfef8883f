"""The rows that are left of the pool's files, on the disk, so that any process may work on any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsift_common.distributed import gather_objects
from clipsift_common.files import save_array
from selection.features.files import FeatureRows, bad_norms, normalised
from selection.kernels.tiles import ROW_TILE, tiles


class FileLeft:
    """Of one file, the rows that are left and usable (see :class:`selection.registry.LeftFile`)."""

    def __init__(self, file: FeatureRows, left: np.ndarray, towers: Sequence[str], normalise: bool) -> None:
        """``left``: (rows,) ascending."""
        self._arrays = {tower: getattr(file, tower)() for tower in towers}
        self._normalise = normalise
        usable = np.ones(len(left), bool)
        for array in self._arrays.values():
            for part in tiles(len(left), ROW_TILE):
                norms = np.linalg.norm(array[left[part]].astype(np.float32), axis=1)
                usable[part] &= ~bad_norms(norms)
        self.rows = left if usable.all() else left[usable]

    def take(self, tower: str, index: np.ndarray | slice) -> np.ndarray:
        """(k, d) features of ``rows[index]``."""
        part = self._arrays[tower][self.rows[index]]
        return normalised(part) if self._normalise else part


@dataclass(frozen=True)
class FilesLeft:
    """The pool's files, with which of their rows are left written in ``folder`` (see :func:`write_left`)."""

    files: tuple[FeatureRows, ...]
    folder: Path
    normalise: bool = False

    def open(self, number: int, towers: Sequence[str]) -> FileLeft:
        """File ``number``, without the rows where any of ``towers`` cannot be used."""
        bits = np.load(left_path(self.folder, number))
        left = np.flatnonzero(np.unpackbits(bits, count=self.files[number].num_rows()))
        return FileLeft(self.files[number], left, towers, self.normalise)


def write_left(folder: Path, masks: Mapping[int, np.ndarray], num_files: int) -> list[int]:
    """Write which rows of this rank's files are left, (rows,) bool by number; a collective call.

    Returns the rows left of each of the pool's files. Raises :class:`ClipsiftError` for a full disk.
    """
    for number, mask in masks.items():
        save_array(left_path(folder, number), np.packbits(mask))
    counts = {number: int(np.count_nonzero(mask)) for number, mask in masks.items()}
    of_all = {number: count for share in gather_objects(counts) for number, count in share.items()}
    return [of_all[number] for number in range(num_files)]


def left_path(folder: Path, number: int) -> Path:
    """Where it is written which rows of a file are left."""
    return folder / "left" / f"{number}.npy"
