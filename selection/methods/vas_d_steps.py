"""The steps of VAS-D over rows that lie in blocks on all ranks: no row is moved, only sums and counts are.

A value is a sum of squares over the rows that are in, so a step takes out what the leaving rows put in: f^T G f, with
their G, a (d, d) sum. It is at most the largest eigenvalue of G times the longest row squared, so rows far above the
cut need not be looked at: only a front of the lowest values is brought up to date at every step, and all others are
read once for several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import gather_objects, sum_over_ranks
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import Progress
from selection.kernels.moments import outer_sum
from selection.kernels.tiles import full_precision, linear_tiles, tile_map
from selection.shuffle.smallest import nth_smallest, ordered

GONE = np.inf  # value of a row that has left


@dataclass
class Block:
    """Rows that one rank has.

    Args:
        number: its place among all blocks.
        features: (m, d), wherever they fit.
        values: (m,) float64, to be written into.
        empty: makes the arrays for a part of the features, of a dtype and a shape.
    """

    number: int
    features: Tensor
    values: np.ndarray
    empty: Callable[[np.dtype, tuple[int, int]], np.ndarray] = lambda dtype, shape: np.empty(shape, dtype)

    @property
    def places(self) -> np.ndarray:
        """(m,) uint64 that tell apart all rows, in order of the pool."""
        return np.uint64(self.number << 32) + np.arange(len(self.values), dtype=np.uint64)

    @property
    def left(self) -> np.ndarray:
        """(k,) int64 rows that have not left."""
        return np.flatnonzero(self.values < GONE)

    def part(self, rows: np.ndarray) -> Tensor:
        """(k, d) a copy of some rows, where the features are."""
        if self.features.is_cuda:
            return self.features[torch.from_numpy(rows).to(self.features.device)]
        source = self.features.numpy()
        found = self.empty(source.dtype, (len(rows), source.shape[1])) if len(rows) else source[:0]
        for tile in linear_tiles(len(rows), self.features.device):
            found[tile] = source[rows[tile]]
        return torch.from_numpy(found)


class Steps:
    """VAS-D over ``blocks``, this rank's, each on one rank only; its methods are collective calls.

    Args:
        device: where products are computed.
    """

    def __init__(self, blocks: Sequence[Block], device: torch.device) -> None:
        self.blocks, self.device = blocks, device
        for block in blocks:
            block.values[:] = 0
        longest = max((_longest(block.features) for block in blocks), default=0.0)
        self.longest = max(gather_objects(longest))
        self.num_left = _total(len(block.values) for block in blocks)
        widths = {width for share in gather_objects({block.features.shape[1] for block in blocks}) for width in share}
        if len(widths) > 1:
            raise ClipsiftError("image features of the pool's files differ in width")
        self._width = max(widths, default=0)
        most = max(1e-30, self.num_left * self.longest**2)  # no entry of a sum of outer products is larger
        self._scale = 2.0 ** (61 - math.ceil(math.log2(most)))

    def gram(self, rows: Callable[[Block], np.ndarray]) -> Tensor:
        """(d, d) float32 sum of the outer products of some ``rows`` of each block, the same for any number of ranks."""
        return self.over_ranks((block.features, rows(block)) for block in self.blocks)

    def restrict(self, rows: Mapping[int, np.ndarray]) -> None:
        """Let all rows leave but the given ones, by number of block."""
        for block in self.blocks:
            outside = np.ones(len(block.values), bool)
            outside[rows[block.number]] = False
            block.values[outside] = GONE
        self.num_left = _total(len(part) for part in rows.values())

    def value(self, matrix: Tensor) -> None:
        """Set the values of all that are left to f^T ``matrix`` f."""
        for block in self.blocks:
            rows = block.left
            block.values[rows] = self.quadratic(block.features, rows, matrix)

    def drop_lowest(self, count: int) -> None:
        """Let the ``count`` rows of the lowest values leave; of equal values the later rows."""
        leave = _lowest([(block.values, block.places) for block in self.blocks], count)
        for block, leaving in zip(self.blocks, leave):
            block.values[leaving] = GONE
        self.num_left -= count

    def downdate(self, sizes: Sequence[int]) -> None:
        """From values that are right, go through steps that leave so many each, keeping values up to date."""
        todo = list(sizes)[::-1]
        with Progress("vas_d", len(todo), "steps", brief=True) as progress:
            while todo:
                front = _Front(self, self.num_left - todo[-1])
                while todo and front.drop(self.num_left - todo[-1], is_last=len(todo) == 1):
                    self.num_left = todo.pop()
                    progress.advance()
                front.close(is_last=not todo)

    def share(self, share: float, seed: list[int]) -> Callable[[Block], np.ndarray]:
        """A random share of what is left, at least one row; raw numbers are the same in every version of numpy."""
        counts = {block.number: len(block.left) for block in self.blocks}
        all_counts = {number: count for part in gather_objects(counts) for number, count in part.items()}
        numbers = {}
        for block in self.blocks:
            before = sum(count for number, count in all_counts.items() if number < block.number)
            generator = np.random.PCG64(np.random.SeedSequence(seed)).advance(before)
            numbers[block.number] = generator.random_raw(counts[block.number])
        chosen = max(1, int(self.num_left * share))
        last, needed = nth_smallest(lambda: numbers.values(), chosen)
        places = {block.number: block.places[block.left][numbers[block.number] == last] for block in self.blocks}
        tie, _ = nth_smallest(lambda: places.values(), needed)

        def rows(block: Block) -> np.ndarray:
            left, mine = block.left, numbers[block.number]
            return left[(mine < last) | ((mine == last) & (block.places[left] <= tie))]

        return rows

    def over_ranks(self, parts: Iterable[tuple[Tensor, np.ndarray]]) -> Tensor:
        """(d, d) float32 sum of the outer products of rows of features.

        Every part is rounded to fixed units, whose sum is exact and so the same in any order, on any number of ranks.
        """
        total = torch.zeros(self._width, self._width, dtype=torch.int64)
        for features, rows in parts:
            index, own = torch.from_numpy(rows), torch.zeros(self._width, self._width, dtype=torch.float64)
            tiles = linear_tiles(len(rows), self.device) if len(rows) else []
            for tile in tile_map(partial(self._outer, features, index), tiles, self.device):
                own += tile
            total += (own * self._scale).round().long()
        return torch.from_numpy(sum_over_ranks(total.numpy()) / self._scale).float()

    def _outer(self, features: Tensor, index: Tensor, tile: slice) -> Tensor:
        return outer_sum(self._rows(features, index[tile])).cpu().double()

    def quadratic(self, features: Tensor, rows: np.ndarray, matrix: Tensor) -> np.ndarray:
        """(k,) float64 values of f^T matrix f."""
        found = np.empty(len(rows))
        index, matrix = torch.from_numpy(rows), matrix.to(self.device)

        def strip(tile: slice) -> None:
            part = self._rows(features, index[tile]).float()
            found[tile] = (part @ matrix).mul_(part).sum(1).double().cpu().numpy()

        for _ in tile_map(strip, linear_tiles(len(rows), self.device) if len(rows) else [], self.device):
            pass
        return found

    def _rows(self, features: Tensor, index: Tensor) -> Tensor:
        return features[index.to(features.device)].to(self.device)


class _Front:
    """The rows of the lowest values, up to date; of all others it is known that their values are above ``bound``."""

    def __init__(self, steps: Steps, chunk: int) -> None:
        """As many rows as make a pass over all others, once for front / chunk steps, and the front's own work equal."""
        self.steps = steps
        size = min(steps.num_left, max(chunk, math.ceil(math.sqrt(2 * steps.num_left * chunk))))
        last, _ = nth_smallest(lambda: (ordered(block.values) for block in steps.blocks), size)
        self.rows = [np.flatnonzero(ordered(block.values) <= last) for block in steps.blocks]
        self.features = [block.part(rows) for block, rows in zip(steps.blocks, self.rows)]
        self.values = [block.values[rows] for block, rows in zip(steps.blocks, self.rows)]
        self.places = [block.places[rows] for block, rows in zip(steps.blocks, self.rows)]
        lowest_outside = min(
            (float(block.values[ordered(block.values) > last].min(initial=GONE)) for block in steps.blocks),
            default=GONE,
        )
        self.bound = min(gather_objects(lowest_outside))
        self.taken_out: Tensor | None = None  # (d, d) what has left since the others were up to date
        self.num_left = _total(len(values) for values in self.values)

    def drop(self, count: int, is_last: bool) -> bool:
        """Let the ``count`` lowest leave, unless one of the others may be among them."""
        if count > self.num_left:
            return False
        leave = _lowest(list(zip(self.values, self.places)), count)
        tops = [float(values[some].max(initial=-np.inf)) for values, some in zip(self.values, leave)]
        highest = max(tops, default=-np.inf)
        is_among_them = max(gather_objects(highest)) < self.bound - self._most_taken_out()
        if self.taken_out is not None and not is_among_them:
            return False
        self.num_left -= count
        for values, leaving in zip(self.values, leave):
            values[leaving] = GONE
        if not is_last:
            self._take_out(leave)
        return True

    def close(self, is_last: bool) -> None:
        """Bring the others up to date, too, unless nothing comes after."""
        for block, rows, values in zip(self.steps.blocks, self.rows, self.values):
            outside = np.ones(len(block.values), bool)
            outside[rows] = False
            block.values[rows] = values
            if self.taken_out is not None and not is_last:
                others = np.flatnonzero(outside & (block.values < GONE))
                block.values[others] -= self.steps.quadratic(block.features, others, self.taken_out)

    def _take_out(self, leave: Sequence[np.ndarray]) -> None:
        matrix = self.steps.over_ranks(zip(self.features, map(np.flatnonzero, leave)))
        for features, values in zip(self.features, self.values):
            rows = np.flatnonzero(values < GONE)
            values[rows] -= self.steps.quadratic(features, rows, matrix)
        self.taken_out = matrix if self.taken_out is None else self.taken_out + matrix

    def _most_taken_out(self) -> float:
        """What no value can have fallen by: the norm of the square of a matrix bounds its largest eigenvalue's."""
        if self.taken_out is None:
            return 0.0
        with full_precision():
            return 1.001 * math.sqrt(float((self.taken_out @ self.taken_out).norm())) * self.steps.longest**2


def _lowest(parts: Sequence[tuple[np.ndarray, np.ndarray]], count: int) -> list[np.ndarray]:
    """For (values, places) of each part a mask of the ``count`` lowest over all ranks, of equal ones the last."""
    keys = [ordered(values) for values, _ in parts]
    last, needed = nth_smallest(lambda: keys, count)
    tie, _ = nth_smallest(lambda: (~places[key == last] for key, (_, places) in zip(keys, parts)), needed)
    return [(key < last) | ((key == last) & (~places <= tie)) for key, (_, places) in zip(keys, parts)]


def _longest(features: Tensor) -> float:
    tiles = linear_tiles(len(features), features.device) if len(features) else []
    return max((float(features[rows].float().norm(dim=1).max()) for rows in tiles), default=0.0)


def _total(counts: Iterable[int]) -> int:
    return int(sum_over_ranks(np.array([sum(counts)])).item())
