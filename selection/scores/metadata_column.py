"""A score that the metadata already holds, such as DataComp's ``clip_l14_similarity_score``."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import torch
from torch import Tensor

from clipsift_common.errors import ClipsiftError
from selection.registry import FeatureBlock, register


@register("metadata_column", needs=())
def metadata_column(block: FeatureBlock, column: str) -> Tensor:
    """The column as float32, true as 1; a missing value is NaN, and NaN is never kept."""
    if column not in block.columns:
        raise ClipsiftError(f"metadata has no column {column} (it has: {', '.join(block.columns) or 'none'})")
    values = np.asarray(block.columns[column])
    if values.dtype == object and all(value is None or isinstance(value, (bool, Decimal)) for value in values):
        values = values.astype(np.float64)  # decimals; booleans of which some are missing
    if values.dtype.kind not in "fiub":
        raise ClipsiftError(f"metadata column {column}: holds {values.dtype}, not numbers")
    return torch.from_numpy(values.astype(np.float32))
