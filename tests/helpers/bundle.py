"""The golden selection bundle as tensors: the pool in pool order, targets, permutations."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor


class Bundle:
    """``folder`` is golden/selection; per-row arrays follow pool order (metadata files by name)."""

    temperature: ClassVar = {"l14": 0.01, "b32": 0.07}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted((folder / "pool" / "metadata").glob("*.npz"))

    def array(self, name: str) -> np.ndarray:
        return np.load(self.folder / name, allow_pickle=False)

    def expected(self, name: str) -> Tensor:
        return torch.from_numpy(self.array(f"golden/{name}.npy"))

    def features(self, key: str) -> Tensor:
        """(3011, d) fp16 features, key such as ``l14_img``."""
        return torch.from_numpy(np.concatenate([np.load(file, allow_pickle=False)[key] for file in self.files]))

    def column(self, name: str) -> np.ndarray:
        tables = [pq.read_table(file.with_suffix(".parquet"), columns=[name]) for file in self.files]
        return np.concatenate([table[name].to_numpy() for table in tables])

    @cached_property
    def uids(self) -> np.ndarray:
        return self.array("golden/pool_uids.npy")

    @cached_property
    def file_rows(self) -> list[slice]:
        sizes = np.bincount(self.array("golden/pool_file_index.npy"))
        ends = np.cumsum(sizes)
        return [slice(int(end - size), int(end)) for size, end in zip(sizes, ends)]

    def target(self, name: str) -> Tensor:
        """Target image features: ``imagenet_l14``, ``downstream_b32`` ...; ``imagenet_l14_txt`` for texts."""
        if name.startswith("imagenet"):
            return torch.from_numpy(self.array(f"targets/{name if name.endswith('_txt') else name + '_img'}.npy"))
        folder = self.folder / "targets" / "downstream" / name.removeprefix("downstream_")
        return torch.from_numpy(np.concatenate([np.load(file) for file in sorted(folder.glob("*.npy"))]))

    def selected(self, kept: np.ndarray) -> np.ndarray:
        """Sorted uids of the rows kept (mask or indices)."""
        return np.sort(self.uids[kept])
