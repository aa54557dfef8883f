"""Features -> score columns: one parquet per metadata file, in blocks large enough for a fair normaliser."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from common.data_report import DataReport
from common.distributed import barrier, gather_objects, rank, world_size
from common.errors import ClipsiftError
from common.files import atomic_path, fingerprint
from common.progress import Progress
from selection.features import FeatureFile, bad_rows
from selection.recipe import Recipe, Step
from selection.scores import SCORES, FeatureBlock
from selection.uids import format_uids, parse_uids

BLOCK_ROWS = 32768  # the s-CLIPLoss batch: a block smaller than this would get a smaller normaliser

_PARENT = b"clipsift.parent"  # schema metadata: fingerprint of what a score file was made from


@dataclass(frozen=True)
class ScorePlan:
    """What to compute for every block. ``parent`` identifies features and settings; a file of another one is stale."""

    steps: tuple[Step, ...]
    seed: int
    device: torch.device
    target: Callable[[str], torch.Tensor]
    parent: str
    block_rows: int = BLOCK_ROWS


def make_blocks(files: list[FeatureFile], block_rows: int) -> list[list[FeatureFile]]:
    """Group consecutive files so that every block has ``block_rows`` rows, when the pool has (0: a block is a file).

    The scores of a file depend on what else is in its normaliser. DataComp's files (half a million rows) are a block
    each, as in the reference; small files are scored together, so that a short one does not get an easier normaliser
    and a larger share of a global cut. What is left at the end joins the block before it.
    """
    blocks: list[list[FeatureFile]] = []
    rows = block_rows
    for file in files:
        if rows >= block_rows:
            blocks.append([])
            rows = 0
        blocks[-1].append(file)
        rows += file.num_rows()
    if len(blocks) > 1 and rows < block_rows:
        rest = blocks.pop()
        blocks[-1] += rest
    return blocks


def write_scores(files: list[FeatureFile], plan: ScorePlan, folder: Path) -> DataReport:
    """Write ``folder/<stem>.parquet`` (uid, one float32 column per step) for every feature file.

    Blocks are split over ranks; a block depends on nothing but its own files, the plan and its position-free seed, so
    the files are the same for any number of processes. Files that are there and have the plan's parent are kept.

    Returns:
        Counts of rows whose features could not be used (``bad_features``), over all ranks.
    """
    blocks = make_blocks(files, plan.block_rows)
    mine = blocks[rank() :: world_size()]
    report = DataReport()
    with Progress("score", sum(file.num_rows() for block in mine for file in block), "pairs") as progress:
        for block in mine:
            rows = sum(file.num_rows() for file in block)
            if all(_is_current(folder / f"{file.stem}.parquet", plan) for file in block):
                progress.resume(progress.done + rows)
                report.samples += rows
                continue
            _write_block(block, plan, folder, report)
            progress.advance(rows)
    barrier()
    merged = DataReport()
    for other in gather_objects(report.as_dict()):
        merged.merge(other)
    return merged


def read_scores(files: list[FeatureFile], folder: Path, names: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(n,) uids and (n,) float32 columns of all score files, in pool order."""
    uids, columns = [], {name: [] for name in names}  # type: ignore[var-annotated]
    for file in files:
        table = pq.read_table(folder / f"{file.stem}.parquet")
        uids.append(parse_uids(table["uid"].to_pylist()))
        for name in names:
            columns[name].append(table[name].to_numpy())
    return np.concatenate(uids), {name: np.concatenate(parts) for name, parts in columns.items()}


def _is_current(path: Path, plan: ScorePlan) -> bool:
    return path.is_file() and (pq.read_schema(path).metadata or {}).get(_PARENT) == plan.parent.encode()


def _write_block(block: list[FeatureFile], plan: ScorePlan, folder: Path, report: DataReport) -> None:
    uids = [file.uids() for file in block]
    num_rows = sum(len(part) for part in uids)
    good, features = _features(block, plan, num_rows, report)
    columns = {}
    for step in plan.steps:
        scores = np.full(num_rows, np.nan, np.float32)
        try:
            scores[good] = SCORES[step.score](features, **step.options).cpu().numpy()
        except ValueError as error:
            raise ClipsiftError(f"{block[0].path}: {step.name}: {error}") from error
        columns[step.name] = scores
    start = 0
    for file, part in zip(block, uids):
        stop = start + len(part)
        arrays = {"uid": pa.array(format_uids(part), pa.string())}
        arrays |= {name: pa.array(scores[start:stop], pa.float32()) for name, scores in columns.items()}
        table = pa.table(arrays).replace_schema_metadata({_PARENT: plan.parent.encode()})
        with atomic_path(folder / f"{file.stem}.parquet") as temporary:
            pq.write_table(table, temporary)
        start = stop


def _features(
    block: list[FeatureFile], plan: ScorePlan, num_rows: int, report: DataReport
) -> tuple[np.ndarray, FeatureBlock]:
    """The block's usable rows and their features on the plan's device."""
    good = np.ones(num_rows, bool)
    image = text = torch.empty(num_rows, 0)
    if any(SCORES[step.score].needs for step in plan.steps):
        images, texts = _stacked(block, "image"), _stacked(block, "text")
        good = ~(bad_rows(images) | bad_rows(texts))
        image, text = (torch.from_numpy(part[good].astype(np.float32)) for part in (images, texts))
    report.samples += num_rows
    for row in np.flatnonzero(~good):
        file, local = _locate(block, int(row))
        report.lose("bad_features", file.stem, f"row {local}", "not finite or all zero")

    seed = int(fingerprint([plan.seed, block[0].stem]), 16) % (1 << 63)
    return good, FeatureBlock(image.to(plan.device), text.to(plan.device), seed, _Columns(block, good), plan.target)


class _Columns(Mapping[str, np.ndarray]):
    """The block's metadata columns, usable rows only, read when asked for."""

    def __init__(self, block: list[FeatureFile], good: np.ndarray) -> None:
        self.block, self.good = block, good

    def __getitem__(self, name: str) -> np.ndarray:
        return np.concatenate([file.column(name) for file in self.block])[self.good]

    def __iter__(self) -> Iterator[str]:
        return iter(self.block[0].column_names())

    def __len__(self) -> int:
        return len(self.block[0].column_names())


def _stacked(block: list[FeatureFile], tower: str) -> np.ndarray:
    parts = [getattr(file, tower)() for file in block]
    parts = [part for part in parts if len(part)] or parts[:1]
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        raise ClipsiftError(
            f"{block[0].path}: {tower} features of this file and its neighbours differ in width {widths}"
        )
    return np.concatenate(parts)


def _locate(block: list[FeatureFile], row: int) -> tuple[FeatureFile, int]:
    for file in block:
        if row < file.num_rows():
            return file, row
        row -= file.num_rows()
    raise AssertionError("row outside its block")


def plan_fingerprint(features: str, recipe: Recipe, seed: int, targets: dict[str, str], block_rows: int) -> str:
    """Identity of score columns: their features, each step's score and options, targets, seed, blocks."""
    steps = [[step.name, step.score, json.dumps(step.options, sort_keys=True)] for step in recipe.steps]
    return fingerprint([features, steps, seed, targets, block_rows])
