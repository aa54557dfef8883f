"""ClipCov over the files of a pool: its rows are brought together by class, and each class picks alone.

Where the picks of all classes together are enough is found by counting, not by moving them: the merge by heads (see
:mod:`selection.methods.clipcov`) picks in the order of the largest of a class's keys so far.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import on_rank_zero, rank, world_size
from clipsift_common.files import save_array
from selection.kernels.checks import check_same_width
from selection.kernels.class_greedy import ClassGreedy
from selection.kernels.moments import row_sum
from selection.kernels.positive import PositiveSums
from selection.kernels.products import multiply
from selection.kernels.tiles import tiles
from selection.kernels.transfer import placed
from selection.methods.clipcov import Terms, classify, other_centres
from selection.options import PositiveInt
from selection.registry import LeftFiles, LeftRows, register_method
from selection.scores.clip_score import clip_score
from selection.shuffle.smallest import nth_smallest, ordered
from selection.shuffle.spill import Spills, rows_by_source, write_spill
from selection.shuffle.units import make_units

UNIT_ROWS = 10_000  # classes are units of work together until they have so many rows, for files are not to be tiny

_PICK = np.dtype([("group", "u4"), ("place", "u8"), ("key", "u8"), ("tie", "u8"), ("raw", "f8")])


@register_method("clipcov", needs=("image", "text"), by_file=True, version=2)
def clipcov_method(left: LeftRows, size: int, classes: str, block: PositiveInt = 200) -> dict[int, np.ndarray]:
    """``classes`` names the classes' text features as a target: a ``.npy`` of (classes, d)."""
    class_text, make = left.target(classes).cpu(), partial(make_units, left.engine)
    spill = _Spill(left.files, class_text, left.device)
    spills = Spills(make("rows by class", spill, left.folder / "classes", len(left.counts)))
    sizes = on_rank_zero(spills.sizes)
    total = int(sizes.sum())
    if not 1 <= size <= total:
        raise ValueError(f"size {size} is outside 1..{total}")
    units, costs = unit_classes(sizes)
    centres = make("class centres", _Centres(spills, units), left.folder / "centres", len(units), costs)
    means = _joined(centres, units, sizes)
    known = _Classes(spills, sizes, units, means, means.sum(0), class_text, block, left.device)
    # So much from each class is as many as are wanted; where the last of them are cut, the others may go on to.
    paths = make("clipcov", _First(known, size), left.folder / "first", len(units), costs)
    second = _Second(known, tuple(paths), _cut(paths, size))
    paths = make("clipcov, up to the cut", second, left.folder / "second", len(units), costs)
    chosen = _Chosen(tuple(paths), _cut(paths, size))
    return rows_by_source(make("clipcov, chosen", chosen, left.folder / "chosen", len(units)), left.mine)


def unit_classes(sizes: np.ndarray) -> tuple[tuple[list[int], ...], np.ndarray]:
    """The classes of each unit of work, ascending, those with rows alone, and the unit's cost.

    ``sizes``: (classes,) rows; the costliest first, each to the unit that has least.
    """
    present = np.flatnonzero(sizes)
    count = min(len(present), -(-int(sizes.sum()) // UNIT_ROWS))
    units: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]
    for group in present[np.argsort(-sizes[present], kind="stable")].tolist():
        load, number = heapq.heappop(loads)
        units[number].append(group)
        heapq.heappush(loads, (load + float(sizes[group]) ** 2, number))
    costs = [sum(float(sizes[group]) ** 2 for group in unit) for unit in units]
    return tuple(sorted(unit) for unit in units), np.array(costs)


def _joined(paths: Sequence[Path], units: Sequence[Sequence[int]], sizes: np.ndarray) -> Tensor:
    """(classes, 2, d) float32 centres, zero for a class without rows."""
    parts = [np.load(path) for path in paths]
    found = np.zeros((len(sizes), *parts[0].shape[1:]), np.float32)
    for unit, part in zip(units, parts):
        found[unit] = part
    return torch.from_numpy(found)


@dataclass(frozen=True)
class _Spill:
    """Both towers of a file's rows, by class."""

    files: LeftFiles
    class_text: Tensor
    device: torch.device

    def __call__(self, number: int, path: Path) -> None:
        file = self.files.open(number, ("image", "text"))
        classes, class_text = np.empty(len(file.rows), np.int64), self.class_text.to(self.device)
        for part in tiles(len(file.rows), 1 << 16) if len(file.rows) else ():
            rows = torch.from_numpy(file.take("image", part)).to(self.device)
            check_same_width(rows, class_text, "class_text")
            classes[part] = classify(rows, class_text)[0].cpu().numpy()
        towers = {name: partial(file.take, name) for name in ("image", "text")}
        write_spill(path, classes, len(self.class_text), file.rows, towers)


@dataclass(frozen=True)
class _Centres:
    """(c, 2, d) float32 mean images and captions of a unit's classes."""

    spills: Spills
    units: Sequence[Sequence[int]]

    def __call__(self, unit: int, path: Path) -> None:
        save_array(path, np.stack([self._of(group) for group in self.units[unit]]))

    def _of(self, group: int) -> np.ndarray:
        places, towers = self.spills.read(group, ("image", "text"))
        return np.stack([(row_sum(towers[name]) / len(places)).float().numpy() for name in ("image", "text")])


@dataclass(frozen=True)
class _Classes:
    """Makes the greedy of a class from what is on the disk."""

    spills: Spills
    sizes: np.ndarray
    units: Sequence[Sequence[int]]
    centres: Tensor
    of_all: Tensor  # (2, d) their sum
    class_text: Tensor
    block: int
    device: torch.device

    def greedy(self, group: int) -> tuple[ClassGreedy, np.ndarray]:
        """It and the places of the class's samples."""
        places, towers = self.spills.read(group, ("image", "text"))
        image, text = (placed(towers[name], self.device) for name in ("image", "text"))
        own, of_all = self.centres[group].to(image.device), self.of_all.to(image.device)
        num_present = int(np.count_nonzero(self.sizes))
        label = multiply(image, self.class_text[group, :, None].to(image.device)).squeeze(1)
        to_text = other_centres(image, own[1], of_all[1], num_present)
        to_image = other_centres(text, own[0], of_all[0], num_present)
        values = [part.cpu().double().numpy() for part in (clip_score(image, text), label, to_text, to_image)]
        terms = Terms(places, *values)
        return ClassGreedy(terms.fixed, terms.label, PositiveSums(image, text), self.block), places


@dataclass(frozen=True)
class _First:
    """The first picks of a unit's classes, in proportion to their samples, in whole blocks."""

    known: _Classes
    size: int

    def __call__(self, unit: int, path: Path) -> None:
        save_array(path, np.concatenate([self._of(group) for group in self.known.units[unit]]))

    def _of(self, group: int) -> np.ndarray:
        wanted = -(-self.size * int(self.known.sizes[group]) // int(self.known.sizes.sum()))
        return _picked(group, *self.known.greedy(group), np.empty(0, _PICK), num_wanted=wanted)


@dataclass(frozen=True)
class _Cut:
    """Chosen are picks with a smaller (key, tie), and the first ``of_last`` that have just these."""

    key: int
    tie: int
    of_last: int

    def count(self, picks: np.ndarray) -> int:
        """How many of a class's picks, which are in order, are chosen."""
        keys, ties = picks["key"], picks["tie"]
        before = (keys < self.key) | ((keys == self.key) & (ties < self.tie))
        return int(before.sum()) + min(self.of_last, int(((keys == self.key) & (ties == self.tie)).sum()))


@dataclass(frozen=True)
class _Second:
    """All picks of a unit's classes up to a cut; what they have beyond may be there, too."""

    known: _Classes
    first: Sequence[Path]
    cut: _Cut

    def __call__(self, unit: int, path: Path) -> None:
        picks = np.load(self.first[unit])
        groups = self.known.units[unit]
        save_array(path, np.concatenate([self._of(group, picks[picks["group"] == group]) for group in groups]))

    def _of(self, group: int, picks: np.ndarray) -> np.ndarray:
        if len(picks) == self.known.sizes[group] or self.cut.count(picks) < len(picks):
            return picks
        greedy, places = self.known.greedy(group)
        greedy.repeat(np.searchsorted(places, picks["place"]), picks["raw"])
        return _picked(group, greedy, places, picks, cut=self.cut)


@dataclass(frozen=True)
class _Chosen:
    """The places of the picks up to the cut, ascending."""

    picks: Sequence[Path]
    cut: _Cut

    def __call__(self, unit: int, path: Path) -> None:
        picks = np.load(self.picks[unit])
        groups = [picks[picks["group"] == group] for group in np.unique(picks["group"])]
        save_array(path, np.sort(np.concatenate([group["place"][: self.cut.count(group)] for group in groups])))


def _picked(
    group: int,
    greedy: ClassGreedy,
    places: np.ndarray,
    picks: np.ndarray,
    num_wanted: int = 0,
    cut: _Cut | None = None,
) -> np.ndarray:
    """``picks`` and the blocks after them, until there are ``num_wanted`` and one is beyond the ``cut``."""
    blocks, total = [picks], len(picks)
    largest = (picks["key"][-1], picks["tie"][-1]) if total else (np.uint64(0), np.uint64(0))
    while greedy.num_left and (total < num_wanted or (cut and cut.count(blocks[-1]) == len(blocks[-1]))):
        index, scores = greedy.next_block()
        block = np.empty(len(index), _PICK)
        block["group"], block["place"], block["raw"] = group, places[index], greedy.raw[index]
        for number, key in enumerate(zip(ordered(-scores), block["place"])):
            largest = max(largest, key)
            block["key"][number], block["tie"][number] = largest
        blocks.append(block)
        total += len(block)
    return np.concatenate(blocks)


def _cut(paths: Sequence[Path], size: int) -> _Cut:
    """The cut after ``size`` picks of all classes; a collective call."""
    mine = paths[rank() :: world_size()]
    key, needed = nth_smallest(lambda: (np.load(path)["key"] for path in mine), size)
    tie, needed = nth_smallest(lambda: (_ties(np.load(path), key) for path in mine), needed)
    return _Cut(int(key), int(tie), needed)


def _ties(picks: np.ndarray, key: np.uint64) -> np.ndarray:
    return picks["tie"][picks["key"] == key]
