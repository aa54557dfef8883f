"""Features -> score columns: one parquet per metadata file, in blocks large enough for a fair normaliser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import methodcaller
from pathlib import Path
from tempfile import TemporaryFile
from typing import TypeVar

import numpy as np
import torch

from clipsift_common.consecutive import grouped
from clipsift_common.data_report import DataReport
from clipsift_common.distributed import gather_objects, on_rank_zero
from clipsift_common.engines.base import GROUP, Engine
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint
from selection.features.files import FeatureRows, bad_norms, copy_rows, off_unit, row_norms
from selection.features.sizes import count_rows
from selection.features.target_rows import Targets
from selection.registry import FeatureBlock
from selection.scores import SCORES
from selection.scoring.column import Column, by_content
from selection.scoring.files import LostRows, OffUnit, ScoreFile, lost_rows_of, off_unit_of, write_score_file
from selection.uids import repeats

Rows = TypeVar("Rows", bound=FeatureRows)
Block = Sequence[FeatureRows]  # consecutive files that are scored together
BLOCK_ROWS = 32768  # the s-CLIPLoss batch: a block smaller than this would get a smaller normaliser

_CACHED = "score"  # name of the one column of a file in the cache
_CAUSES = {"bad_features": "not finite or all zero", "duplicate_uid": "an earlier row of the file has the same uid"}


@dataclass(frozen=True)
class ScorePlan:
    """What to compute for every block.

    Args:
        columns: the scores, each a step's own or part of a combination.
        keys: identity of each column by name, of whatever file: its score, options, targets and seed.
        cache: where columns are kept by identity, so that another recipe of the same scores finds them.
        seed: the run's.
        device: where scores are computed.
        target: features of a target set by name, such as :class:`~selection.features.target_rows.Targets`.
        block_rows: see :func:`make_blocks`.
        normalise: bring every row of features to unit length first.
        content: hash of what is in a file. A score is known by its column's key and the content of its block's files,
            so that in a pool that has grown only what is new is computed.
    """

    columns: tuple[Column, ...]
    keys: dict[str, str]
    cache: Path
    seed: int
    device: torch.device
    target: Callable[[str], torch.Tensor]
    block_rows: int = BLOCK_ROWS
    normalise: bool = False
    content: Callable[[FeatureRows], str] = methodcaller("fingerprint")

    @property
    def identity(self) -> str:
        """Of all its scores, of whatever pool."""
        return fingerprint([[column.name, self.keys[column.name]] for column in self.columns] + [self.block_rows])

    def on(self, device: torch.device) -> ScorePlan:
        """The same on another device, maybe another process's."""
        assert isinstance(self.target, Targets)
        return replace(self, device=device, target=Targets(self.target.rows, device))

    def blocks(self, files: Sequence[Rows]) -> list[Sequence[Rows]]:
        """The units of work: ``files`` in blocks; a collective call."""
        return make_blocks(files, count_rows(files), self.block_rows)

    def of_block(self, block: Block) -> str:
        """Content of a block: of its files, in order."""
        return fingerprint([[file.stem, self.content(file)] for file in block])

    def parent(self, content: str) -> str:
        """Identity of the score files of a block."""
        return fingerprint([[column.name, self.key(column, content)] for column in self.columns])

    def key(self, column: Column, content: str) -> str:
        """Identity of a column's scores in a block."""
        return fingerprint([self.keys[column.name], content])

    def cached(self, column: Column, content: str, file: FeatureRows) -> Path:
        """Where a column's scores of a block's file are kept."""
        return self.cache / self.keys[column.name] / f"{file.stem}-{content}.parquet"


def make_blocks(files: Sequence[Rows], sizes: Sequence[int], block_rows: int) -> list[Sequence[Rows]]:
    """Group consecutive files so that every block has ``block_rows`` rows, when the pool has (0: a block is a file).

    The scores of a file depend on what else is in its normaliser. DataComp's files (half a million rows) are a block
    each, as in the reference; small files are scored together, so that a short one does not get an easier normaliser
    and a larger share of a global cut. What is left at the end joins the block before it.

    ``sizes``: the rows of each file.
    """
    blocks, rows = grouped(files, sizes, block_rows)
    if len(blocks) > 1 and rows < block_rows:
        rest = blocks.pop()
        blocks[-1] += rest
    return [*blocks]


def write_scores(files: Sequence[FeatureRows], plan: ScorePlan, folder: Path, engine: Engine = GROUP) -> DataReport:
    """Write ``folder/<stem>.parquet`` (uid, one float32 column per score) for every feature file; a collective call.

    A block is a unit of work: it depends on nothing but its own files, the plan and its position-free seed, so the
    files are the same whoever makes them. Files that are there and were made of the same are kept, those of files that
    the pool no longer has are removed.

    Returns:
        Counts of rows whose features could not be used (``bad_features``), or whose uid the file has already
        (``duplicate_uid``), over all ranks.
    """
    blocks = plan.blocks(files)
    write_blocks(blocks, plan, folder, engine)
    on_rank_zero(lambda: _remove_others(files, folder))
    merged = DataReport()
    for other in gather_objects(lost_in(GROUP.share(blocks), plan, folder).as_dict()):
        merged.merge(other)
    return merged


def write_blocks(blocks: Sequence[Block], plan: ScorePlan, folder: Path, engine: Engine) -> None:
    """Have ``engine`` write the score files of ``blocks`` that are not there."""
    made = partial(_write_block, plan=plan, folder=folder), partial(is_scored, plan=plan, folder=folder)
    engine.do("score", blocks, *made, _num_rows, "pairs")


def is_scored(block: Block, plan: ScorePlan, folder: Path) -> bool:
    """Whether the score files of a block are there, made of what it holds now and by this plan."""
    parent = plan.parent(plan.of_block(block))
    return all(lost_rows_of(path, parent) is not None for path in _paths(block, folder))


def lost_in(blocks: Sequence[Block], plan: ScorePlan, folder: Path) -> DataReport:
    """The rows of ``blocks`` that have no score, as their score files say; see :func:`write_scores`."""
    report = DataReport()
    for block in blocks:
        parent = plan.parent(plan.of_block(block))
        report.samples += _num_rows(block)
        for file, path in zip(block, _paths(block, folder)):
            for cause, lost in (lost_rows_of(path, parent) or {}).items():
                for row in lost:
                    report.lose(cause, file.stem, f"row {row}", _CAUSES[cause])
        _note_lengths(block, _paths(block, folder)[0], report)
    return report


def _note_lengths(block: Block, first: Path, report: DataReport) -> None:
    """Rows that are not of unit length, as the block's first score file says."""
    for number, tower, row, count, length in off_unit_of(first):
        report.note(
            "not_unit_length",
            block[number].path,
            f"row {row}",
            f"{tower} features are not of unit length in {count:,} rows here and in its block; first: {length:.3g}; "
            "their products are no cosines. Set selection.normalise if they should be",
            count,
        )


def _num_rows(block: Block) -> int:
    return sum(file.num_rows() for file in block)


def _paths(block: Block, folder: Path) -> list[Path]:
    return [folder / f"{file.stem}.parquet" for file in block]


def _write_block(block: Block, plan: ScorePlan, folder: Path) -> None:
    """Compute the columns that the cache does not have, then put all of them into the block's score files."""
    content = plan.of_block(block)
    keys = {column.name: plan.key(column, content) for column in plan.columns}
    missing = [
        column
        for column in plan.columns
        if any(lost_rows_of(plan.cached(column, content, file), keys[column.name]) is None for file in block)
    ]
    if missing:
        lost, features, off_unit_rows = _features(block, plan)
        good = ~np.any(list(lost.values()), axis=0)
        starts = np.cumsum([0, *(file.num_rows() for file in block)])
        for column in missing:
            scores = _score(column, good, features, block[0].path)
            for file, start, stop in zip(block, starts, starts[1:]):
                rows: LostRows = {cause: np.flatnonzero(mask[start:stop]).tolist() for cause, mask in lost.items()}
                path = plan.cached(column, content, file)
                notes = off_unit_rows if file is block[0] else []
                write_score_file(path, {_CACHED: scores[start:stop]}, keys[column.name], rows, off_unit=notes)
    for file, path in zip(block, _paths(block, folder)):
        cached = {column.name: ScoreFile(0, plan.cached(column, content, file)) for column in plan.columns}
        lost_rows = next((lost_rows_of(part.path, keys[name]) or {} for name, part in cached.items()), {})
        values = {name: part.column(_CACHED) for name, part in cached.items()}
        notes = next((off_unit_of(part.path) for part in cached.values()), [])
        write_score_file(path, values, plan.parent(content), lost_rows, file.uids(), notes)


def _remove_others(files: Sequence[FeatureRows], folder: Path) -> None:
    """Score files of what is no longer in the pool; whoever reads the folder would take them for the pool's."""
    stems = {file.stem for file in files}
    for path in folder.glob("*.parquet"):
        if path.stem not in stems:
            path.unlink()


def _score(column: Column, good: np.ndarray, features: FeatureBlock, path: str) -> np.ndarray:
    """(n,) float32 scores of a block; NaN where the features are not ``good``."""
    scores = np.full(len(good), np.nan, np.float32)
    try:
        scores[good] = column.values_of(features)
    except ValueError as error:
        raise ClipsiftError(f"{path}: {column.name}: {error}") from error
    return scores


def _features(block: Block, plan: ScorePlan) -> tuple[dict[str, np.ndarray], FeatureBlock, list[OffUnit]]:
    """(n,) masks of the block's rows that are lost, by cause; what the plan needs of the others, on its device; those
    that are not of unit length.

    Features keep the dtype of the file: in float32, a file of DataComp's medium pool would take 3 GB.
    """
    arrays: dict[str, np.ndarray] = {tower: _stacked(block, tower) for tower in features_needed(plan.columns)}
    norms = {tower: row_norms(array) for tower, array in arrays.items()}
    bad = np.zeros(sum(file.num_rows() for file in block), bool)
    for tower in arrays:
        bad |= bad_norms(norms[tower])
    lengths = [] if plan.normalise else [note for tower in arrays for note in _off_unit(block, tower, norms[tower])]
    lost = {"bad_features": bad, "duplicate_uid": ~bad & np.concatenate([repeats(file.uids()) for file in block])}
    good = ~(bad | lost["duplicate_uid"])
    image, text = (_on_device(arrays.pop(tower, None), good, plan) for tower in ("image", "text"))
    seed = int(fingerprint([plan.seed, block[0].stem]), 16) % (1 << 63)
    return lost, FeatureBlock(image, text, seed, _Columns(block, good), plan.target), lengths


def _off_unit(block: Block, tower: str, norms: np.ndarray) -> list[OffUnit]:
    """Where the block's first row that is not of unit length is, and how many there are; none without one."""
    rows = np.flatnonzero(off_unit(norms))
    if not len(rows):
        return []
    starts = np.cumsum([0, *(file.num_rows() for file in block)])
    number = int(np.searchsorted(starts, rows[0], "right")) - 1
    return [(number, tower, int(rows[0] - starts[number]), len(rows), float(norms[rows[0]]))]


def features_needed(columns: Sequence[Column]) -> list[str]:
    """Which of image and text features the scores look at."""
    return sorted({tower for column in columns for tower in column.needs})


def _on_device(features: np.ndarray | None, good: np.ndarray, plan: ScorePlan) -> torch.Tensor:
    """The good rows; (n, 0) when there are no features."""
    if features is None:
        return torch.empty(int(np.count_nonzero(good)), 0, device=plan.device)
    if not good.all() or plan.normalise:
        features = _good_rows(features, good, plan)
    return torch.from_numpy(features).to(plan.device)


def _good_rows(features: np.ndarray, good: np.ndarray, plan: ScorePlan) -> np.ndarray:
    """A copy of the good rows, in an unnamed file instead of in memory if ``features`` are: nearly all are good."""
    shape = (int(np.count_nonzero(good)), features.shape[1])
    copy = np.empty(shape, features.dtype)
    if isinstance(features, np.memmap) and shape[0]:
        plan.cache.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=plan.cache) as file:
            copy = np.memmap(file, features.dtype, "w+", shape=shape)
    copy_rows(features, good, copy, plan.normalise)
    return copy


class _Columns(Mapping[str, np.ndarray]):
    """The block's metadata columns, usable rows only, read when asked for."""

    def __init__(self, block: Block, good: np.ndarray) -> None:
        self.block, self.good = block, good

    def __getitem__(self, name: str) -> np.ndarray:
        return np.concatenate([file.column(name) for file in self.block])[self.good]

    def __iter__(self) -> Iterator[str]:
        return iter(self.block[0].column_names())

    def __len__(self) -> int:
        return len(self.block[0].column_names())


def _stacked(block: Block, tower: str) -> np.ndarray:
    parts = [getattr(file, tower)() for file in block]
    parts = [part for part in parts if len(part)] or parts[:1]
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise ClipsiftError(
            f"{block[0].path}: {tower} features of this file and its neighbours differ in width {widths}"
        )
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def column_keys(
    columns: Sequence[Column], seed: int, contents: Mapping[str, str], normalise: bool = False
) -> dict[str, str]:
    """Identity of each score column by name, of whatever file.

    Args:
        contents: fingerprints of what the options' names stand for: targets' features, language models.
    """
    shared = [seed, normalise, features_needed(columns)]  # rows lacking one needed tower have no score
    return {
        column.name: fingerprint(
            [shared, column.score, SCORES[column.score].version, by_content(column.options, contents)]
        )
        for column in columns
    }
