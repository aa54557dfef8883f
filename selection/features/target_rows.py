"""The rows of a target: none that no cosine can be computed from, and of the length that the settings say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from clipsift_common.errors import ClipsiftError
from selection.features.files import bad_norms, normalised, off_unit, row_norms

logger = logging.getLogger("clipsift")


class Targets:
    """Features of target sets by name, (t, d) each, brought to a device when they are first asked for.

    What is sent to another process are the rows; there they are brought to the device anew.
    """

    def __init__(self, rows: Mapping[str, torch.Tensor], device: torch.device) -> None:
        self.rows, self.device = rows, device
        self._placed: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> torch.Tensor:
        if name not in self._placed:
            self._placed[name] = self.rows[name].to(self.device)
        return self._placed[name]

    def __getstate__(self) -> dict[str, Any]:
        return {"rows": self.rows, "device": self.device, "_placed": {}}


def checked_rows(name: str, rows: torch.Tensor, normalise: bool = False, any_length: bool = False) -> torch.Tensor:
    """A target's rows (t, d), of unit length if ``normalise``; without it others are taken as they are, with a warning.

    ``any_length``: as they are and without one, as centroids are: means of unit rows are shorter.

    Raises :class:`ClipsiftError` for a row that is not finite or all zero.
    """
    features = np.asarray(rows.cpu())
    norms = row_norms(features)
    bad = np.flatnonzero(bad_norms(norms))
    if len(bad):
        raise ClipsiftError(f"target: {name} row {bad[0]} is not finite or all zero; leave it out")
    if any_length:
        return rows
    if normalise:
        return torch.from_numpy(normalised(features))
    off = np.flatnonzero(off_unit(norms))
    if len(off):
        logger.warning(
            "target: %s: %s of %s rows are not of unit length (first: row %d, length %.3g); "
            "set selection.normalise if they should be",
            name,
            f"{len(off):,}",
            f"{len(norms):,}",
            off[0],
            norms[off[0]],
        )
    return rows
