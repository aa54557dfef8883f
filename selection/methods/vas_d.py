"""VAS-D, also NormSim_2-D: the samples still in are the target, and the least aligned with them leave step by step.

arXiv 2402.02055 and 2405.19547. Each step ranks the remaining samples P by f^T S f, S the second moment of P (in the
first step: of the whole pool, before any quality filter), and drops ceil((|P_0| - size) / steps) of them; the last
step drops what is left to drop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import rank, sum_over_ranks, world_size
from clipsift_common.progress import track
from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_same_width
from selection.kernels.moments import gram, outer_sum
from selection.kernels.tiles import fill_rows, linear_tiles, tile_map
from selection.options import PositiveInt, Share
from selection.registry import MOMENT, Candidates, indices_to_mask, register_method


@on_arrays
def vas_d(
    features: Tensor,
    size: int,
    steps: int,
    start: Tensor | None = None,
    moment: Tensor | None = None,
    moment_share: float = 1.0,
    seed: int = 0,
    over_ranks: bool = False,
) -> Tensor:
    """(size,) int64 indices into ``features``, ascending, of the samples that stay.

    Args:
        features: (n, d) unit image features of the pool; may be memory mapped.
        size: how many to keep.
        steps: at most this many rounds; the papers use 500 for the medium scale and 168 for the small.
        start: indices to begin with, such as the best by a quality score; default all.
        moment: (d, d) second moment that the first step ranks by; default that of all of ``features``.
        moment_share: in (0, 1]; below 1 every step makes its moment anew from so large a random share of the samples
            that are left. The code of arXiv 2405.19547 takes 0.1, that of arXiv 2402.02055 all.
        seed: of those shares.
        over_ranks: every process of the group calls with the same arguments, and each does its share of every step.
            The result is the same for any number of them.

    Among equal values the higher index leaves first. A step costs O(|P| d min(dropped, d)): a sample's value is a sum
    of squares over P, so only what the dropped samples put in is taken out. With ``moment_share`` s below 1 it costs
    O((1 + s) |P| d^2). Memory is O(n) beside the features.

    Raises:
        ValueError: size, steps or share out of range, a row that is not finite, a start out of range or with repeats.
    """
    check_features(features)
    alive = _start_indices(start, len(features), features.device)
    if not 1 <= size <= len(alive):
        raise ValueError(f"size {size} is outside 1..{len(alive)}, the samples to begin with")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    if not 0 < moment_share <= 1:
        raise ValueError(f"moment_share {moment_share} is outside (0, 1]")
    if moment is not None:
        check_same_width(features, moment, "moment")
    chunk = -(-(len(alive) - size) // steps)
    if moment_share < 1:
        return _resampled(features, alive, size, chunk, moment, moment_share, seed, over_ranks)
    return _downdated(features, alive, size, chunk, moment, over_ranks)


def _downdated(
    features: Tensor, alive: Tensor, size: int, chunk: int, moment: Tensor | None, over_ranks: bool
) -> Tensor:
    if size == len(alive):
        return alive
    first = _values(features, alive, _gram(features) if moment is None else moment, over_ranks)
    alive = alive[_highest(first, max(size, len(alive) - chunk))]
    if len(alive) == size:
        return alive
    # float64 sums: hundreds of subtractions must not disturb the order
    values = _values(features, alive, _gram(features, alive), over_ranks)
    for staying_size in track(_sizes(len(alive), size, chunk), "vas_d", unit="steps", brief=True):
        staying = _highest(values, staying_size)
        dropped = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        dropped[staying] = False
        leaving = features[alive[dropped]].float()
        alive, values = alive[staying], values[staying]
        if len(alive) > size:
            values -= _energy(features, alive, leaving, over_ranks)
    return alive


def _resampled(
    features: Tensor,
    alive: Tensor,
    size: int,
    chunk: int,
    moment: Tensor | None,
    share: float,
    seed: int,
    over_ranks: bool,
) -> Tensor:
    everything = torch.arange(len(features), device=alive.device)
    if moment is None:
        moment = _gram(features, _share(everything, share, [seed, 0]))
    for step, staying_size in enumerate(track(_sizes(len(alive), size, chunk), "vas_d", unit="steps", brief=True)):
        if step:
            moment = _gram(features, _share(alive, share, [seed, step]))
        values = _values(features, alive, moment, over_ranks)
        alive = alive[_highest(values, staying_size)]
    return alive


def _sizes(count: int, size: int, chunk: int) -> list[int]:
    """How many of ``count`` samples stay after each step, which drops ``chunk`` until ``size`` are left."""
    return [max(size, left) for left in range(count - chunk, size - chunk, -chunk)] if count > size else []


def _share(indices: Tensor, share: float, seed: list[int]) -> Tensor:
    """A random ``share`` of ``indices``, at least one; raw numbers are the same in every version of numpy."""
    numbers = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(len(indices))
    chosen = np.sort(np.argsort(numbers, kind="stable")[: max(1, int(len(indices) * share))])
    return indices[torch.from_numpy(chosen).to(indices.device)]


@register_method("vas_d", needs=("image", MOMENT), over_ranks=True)
def vas_d_method(candidates: Candidates, size: int, steps: PositiveInt = 500, moment_share: Share = 1.0) -> Tensor:
    features = candidates.image
    kept = vas_d(features, size, steps, None, candidates.moment, moment_share, candidates.seed, over_ranks=True)
    return indices_to_mask(kept, len(features))


def _start_indices(start: Tensor | None, num_samples: int, device: torch.device) -> Tensor:
    if start is None:
        return torch.arange(num_samples, device=device)
    indices = torch.as_tensor(start, device=device).long().unique()
    if len(indices) != len(start):
        raise ValueError("start has repeated indices")
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < num_samples:
        raise ValueError(f"start has indices outside 0..{num_samples - 1}")
    return indices


def _gram(features: Tensor, rows: Tensor | None = None) -> Tensor:
    """(d, d) sum of outer products of ``rows`` (default: all), which are copied a tile at a time."""
    if rows is None:
        return gram(features)
    total = torch.zeros(features.shape[1], features.shape[1], device=features.device)
    parts = tile_map(
        lambda part: outer_sum(features[rows[part]]), linear_tiles(len(rows), rows.device), features.device
    )
    for part in parts:
        total += part
    return total


def _values(features: Tensor, rows: Tensor, matrix: Tensor, over_ranks: bool) -> Tensor:
    """(len(rows),) float64 values of f^T matrix f."""
    matrix = matrix.float()

    def strip(part: slice) -> Tensor:
        queries = features[rows[part]].float()
        return (queries @ matrix).mul_(queries).sum(1)

    return _strips(strip, len(rows), features.device, over_ranks).double()


def _highest(values: Tensor, count: int) -> Tensor:
    """Ascending positions of the ``count`` highest values; at the cut the lower positions."""
    array = values.cpu().numpy()
    cut = np.partition(array, len(array) - count)[len(array) - count]
    kept = array > cut
    kept[np.flatnonzero(array == cut)[: count - np.count_nonzero(kept)]] = True
    return torch.from_numpy(np.flatnonzero(kept)).to(values.device)


def _energy(features: Tensor, alive: Tensor, leaving: Tensor, over_ranks: bool) -> Tensor:
    """(|alive|,) sums over the ``leaving`` rows of their squared inner products with each row that is alive."""
    through_gram = len(leaving) >= leaving.shape[1]
    factor = gram(leaving) if through_gram else leaving.T.contiguous()

    def strip(rows: slice) -> Tensor:
        queries = features[alive[rows]].float()
        products = queries @ factor
        return products.mul_(queries if through_gram else products).sum(1)

    return _strips(strip, len(alive), features.device, over_ranks)


def _strips(function: Callable[[slice], Tensor], num_rows: int, device: torch.device, over_ranks: bool) -> Tensor:
    """(num_rows,) float32 that ``function`` gives tile by tile; ``over_ranks``, each rank computes some tiles."""
    values = torch.zeros(num_rows, device=device)
    parts = linear_tiles(num_rows, device)
    fill_rows(values, function, parts[rank() :: world_size()] if over_ranks else parts)
    if not over_ranks or world_size() == 1:
        return values
    return torch.from_numpy(sum_over_ranks(values.cpu().numpy())).to(device)  # all others have zero there
