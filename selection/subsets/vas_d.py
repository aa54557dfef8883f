"""VAS-D, also NormSim_2-D: the samples still in are the target, and the least aligned with them leave step by step.

arXiv 2402.02055 and 2405.19547. Each step ranks the remaining samples P by f^T S f, S the second moment of P (in the
first step: of the whole pool, before any quality filter), and drops ceil((|P_0| - size) / steps) of them; the last
step drops what is left to drop.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selection.checks import check_features, check_same_width
from selection.moments import gram, quadratic
from selection.tiles import ROW_TILE, tile_map, tiles


def vas_d(features: Tensor, size: int, steps: int, start: Tensor | None = None, moment: Tensor | None = None) -> Tensor:
    """(size,) int64 indices into ``features``, ascending, of the samples that stay.

    Args:
        features: (n, d) unit image features of the pool.
        size: how many to keep.
        steps: at most this many rounds; the papers use 500 for the medium scale and 168 for the small.
        start: indices to begin with, such as the best by a quality score; default all.
        moment: (d, d) second moment that the first step ranks by; default that of all of ``features``.

    Among equal values the higher index leaves first. A step costs O(|P| d min(dropped, d)): a sample's value is a sum
    of squares over P, so only what the dropped samples put in is taken out.

    Raises:
        ValueError: size or steps out of range, a row that is not finite, a start out of range or with repeats.
    """
    check_features(features)
    alive = _start_indices(start, len(features), features.device)
    if not 1 <= size <= len(alive):
        raise ValueError(f"size {size} is outside 1..{len(alive)}, the samples to begin with")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    if moment is not None:
        check_same_width(features, moment, "moment")
    if size == len(alive):
        return alive
    chunk = -(-(len(alive) - size) // steps)
    first = quadratic(features[alive], gram(features) if moment is None else moment)
    alive = alive[_highest(first.double(), max(size, len(alive) - chunk))]
    if len(alive) == size:
        return alive
    # float64 sums: hundreds of subtractions must not disturb the order
    values = quadratic(features[alive], gram(features[alive])).double()
    while len(alive) > size:
        staying = _highest(values, max(size, len(alive) - chunk))
        dropped = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        dropped[staying] = False
        leaving = features[alive[dropped]].float()
        alive, values = alive[staying], values[staying]
        if len(alive) > size:
            values -= _energy(features, alive, leaving)
    return alive


def _start_indices(start: Tensor | None, num_samples: int, device: torch.device) -> Tensor:
    if start is None:
        return torch.arange(num_samples, device=device)
    indices = torch.as_tensor(start, device=device).long().unique()
    if len(indices) != len(start):
        raise ValueError("start has repeated indices")
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < num_samples:
        raise ValueError(f"start has indices outside 0..{num_samples - 1}")
    return indices


def _highest(values: Tensor, count: int) -> Tensor:
    """Ascending positions of the ``count`` highest values; at the cut the lower positions."""
    array = values.cpu().numpy()
    cut = np.partition(array, len(array) - count)[len(array) - count]
    kept = array > cut
    kept[np.flatnonzero(array == cut)[: count - np.count_nonzero(kept)]] = True
    return torch.from_numpy(np.flatnonzero(kept)).to(values.device)


def _energy(features: Tensor, alive: Tensor, leaving: Tensor) -> Tensor:
    """(|alive|,) sums over the ``leaving`` rows of their squared inner products with each row that is alive."""
    through_gram = len(leaving) >= leaving.shape[1]
    factor = gram(leaving) if through_gram else leaving.T.contiguous()

    def strip(rows: slice) -> Tensor:
        queries = features[alive[rows]].float()
        products = queries @ factor
        return products.mul_(queries if through_gram else products).sum(1)

    return torch.cat(list(tile_map(strip, tiles(len(alive), ROW_TILE), features.device)))
