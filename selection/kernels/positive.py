"""Sums of the positive parts of similarities between two towers: exactly, and bounds that cost no product of pairs.

For rows f and a set of n rows g: sum_j max(f.g_j, 0) is at least max(f . sum_j g_j, 0), and, as max(c, 0) is half of
c + |c|, at most half of f . sum_j g_j + sqrt(n f^T (sum_j g_j g_j^T) f), by Cauchy and Schwarz.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from selection.kernels.moments import gram, quadratic, row_sum
from selection.kernels.products import product_sums, product_tiles, row_tiles
from selection.kernels.tiles import fill_rows, linear_tiles, tile_map

EXACT_BELOW = 8  # times d rows: there the exact sums of all cost no more than bounds of them


class PositiveSums:
    """For pairs of ``image`` and ``text`` (n, d), C their products: sums over some j of C+_ij + C+_ji, C+ = max(C, 0).

    All results are float64 arrays on the CPU, of float32 products.

    Args:
        image, text: features; may be memory mapped.
        members: (n,) which rows of them the pairs are; default all.
    """

    def __init__(self, image: Tensor, text: Tensor, members: Tensor | None = None) -> None:
        self._image, self._text, self._members = image, text, members
        self._count = len(image) if members is None else len(members)
        longest = [float(self._longest(tower)) for tower in (image, text)]
        # rounding moves the sum of two products of d terms by less
        self._slack = 4 * image.shape[1] * 2.0**-24 * longest[0] * longest[1]

    def most_over_all(self) -> tuple[np.ndarray, bool]:
        """(n,) the sums over all j, or upper bounds of them, and whether they are exact."""
        image, text = self._rows(), self._rows(of_text=True)
        if self._count <= EXACT_BELOW * image.shape[1]:
            by_image, by_text = product_sums(image, text, _positive)
            return _array(by_image) + _array(by_text), True
        found = np.full(self._count, self._count * self._slack)
        for queries, keys in ((image, text), (text, image)):
            squares = _array(quadratic(queries, gram(keys))).clip(min=0)
            found += (_array(_times(queries, row_sum(keys).float())) + np.sqrt(self._count * squares)) / 2
        return found, False

    def over_all(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) the sums over all j."""
        if not len(rows):
            return np.empty(0)
        found = _positive_sums(self._rows(rows), self._rows(of_text=True))
        return found + _positive_sums(self._rows(rows, of_text=True), self._rows())

    def least_over(self, rows: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """(len(rows),) lower bounds of the sums over the ``picks`` j."""
        found = np.full(len(rows), -len(picks) * self._slack)
        for of_text in (False, True):
            queries = self._text if of_text else self._image
            vector = row_sum(self._rows(picks, of_text=not of_text)).float()
            found += _array(_times(queries, vector, self._index(rows))).clip(min=0)
        return found

    def over(self, rows: np.ndarray, picks: np.ndarray, since: np.ndarray) -> np.ndarray:
        """(len(rows),) the sums over ``picks[since[i]:]`` of each row i."""
        first = int(since.min())
        later = torch.from_numpy(since - first).to(self._image.device)
        found = _positive_sums(self._rows(rows), self._rows(picks[first:], of_text=True), later)
        return found + _positive_sums(self._rows(rows, of_text=True), self._rows(picks[first:]), later)

    def _index(self, rows: np.ndarray) -> Tensor:
        index = torch.from_numpy(rows).to(self._image.device)
        return index if self._members is None else self._members[index]

    def _rows(self, rows: np.ndarray | None = None, of_text: bool = False) -> Tensor:
        tower = self._text if of_text else self._image
        if rows is not None:
            return tower[self._index(rows)]
        return tower if self._members is None else tower[self._members]

    def _longest(self, tower: Tensor) -> Tensor:
        """Length of the longest row."""

        def longest(part: slice) -> Tensor:
            return tower[part if self._members is None else self._members[part]].float().norm(dim=1).max()

        return torch.stack(list(tile_map(longest, linear_tiles(self._count, tower.device), tower.device))).max()


def _positive_sums(queries: Tensor, keys: Tensor, since: Tensor | None = None) -> np.ndarray:
    """(q,) float64 sums over the ``keys`` (m, d), for each query from the key ``since`` (q,) on."""

    def strip(rows: slice) -> Tensor:
        sums = torch.zeros(rows.stop - rows.start, dtype=torch.float64, device=queries.device)
        for part, products in product_tiles(queries[rows], keys):
            values = _positive(products)
            if since is not None and int(since[rows].max()) > part.start:
                numbers = torch.arange(part.start, part.stop, device=queries.device)
                values *= numbers >= since[rows][:, None]
            sums += values.sum(1)
        return sums

    if not len(queries) or not len(keys):
        return np.zeros(len(queries))
    return _array(torch.cat(list(tile_map(strip, row_tiles(queries), queries.device))))


def _positive(similarities: Tensor) -> Tensor:
    return similarities.clamp_(min=0)


def _times(features: Tensor, vector: Tensor, rows: Tensor | None = None) -> Tensor:
    """(n,) inner products with ``vector``, of the given rows."""
    count = len(features) if rows is None else len(rows)

    def strip(part: slice) -> Tensor:
        return features[part if rows is None else rows[part]].float() @ vector

    return fill_rows(torch.empty(count, device=features.device), strip, linear_tiles(count, features.device))


def _array(values: Tensor) -> np.ndarray:
    return values.cpu().double().numpy()
