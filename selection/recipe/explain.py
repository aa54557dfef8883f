"""Why a sample was kept or not: each of its scores, how it ranks in the pool, and the step that dropped it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from selection.scoring.files import ScoreFile
from selection.subset import Subset
from selection.uids import UID_WIDTH, format_uids, parse_uids


@dataclass(frozen=True)
class ScoreExplained:
    """A sample by one score, and what the step of that score did with it.

    Attributes:
        value: the score; NaN where the sample had no usable features.
        rank: its place among the pool's ``num_scored`` finite scores, 1 is best; equal scores share the best place.
        threshold: the lowest score that the step kept; None when it kept nothing.
        outcome: ``kept``, ``dropped``, or ``was out`` when something before had dropped the sample.
    """

    name: str
    value: float
    rank: int
    num_scored: int
    threshold: float | None
    outcome: str

    @property
    def quantile(self) -> float:
        """Share of the scored pool that is no better, in [0, 1]: 1 for the best sample."""
        return 1 - (self.rank - 1) / self.num_scored if self.num_scored else 0.0


@dataclass(frozen=True)
class Explanation:
    """All that is known about a sample of a run; ``operations`` are the words on set operations, in order."""

    uid: str
    stem: str  # of the metadata file, and its row there
    row: int
    multiplicity: int  # in the subset; 0: not kept
    scores: list[ScoreExplained]
    operations: list[str]


def explain(run: Path, uid: str) -> Explanation:
    """Explain ``uid`` from the score files and the subset of a run directory, read one file at a time.

    Raises:
        ClipsiftError: when the run has no finished selection, or the uid is not in its pool.
    """
    folder = run / "selection"
    if not (folder / "subset.json").is_file():
        raise ClipsiftError(f"{run}: has no finished selection; clipsift select makes one")
    wanted = parse_uids([uid])
    uid = format_uids(wanted)[0]
    about = read_json(folder / "subset.json")
    files = [ScoreFile(number, path) for number, path in enumerate(sorted((folder / "scores").glob("*.parquet")))]
    file, row = _find(files, uid)
    within = about["recipe"]["within"]
    operations, is_in = [], True
    if within:
        is_in = bool(Subset.load(within).multiplicity(wanted)[0])
        operations.append(f"within {within}: {'in it' if is_in else 'not in it'}")
    scores = []
    columns = set(pq.read_schema(file.path).names)
    for step in about["steps"]:
        if step["name"] not in columns:  # a set method, or a combination made from columns of other names
            operations.append(f"{step['name']}: judges what is left as a whole and keeps no score of a sample")
            continue
        score = _explain_step(step, files, file, row, uid, is_in)
        is_in = score.outcome == "kept"
        scores.append(score)
    for operation in about["operations"]:
        there = Subset.load(operation["file"]).multiplicity(wanted)[0] > 0
        operations.append(f"{operation['operation']} with {operation['file']}: {'in it' if there else 'not in it'}")
    kept = int(Subset.load(folder / "subset.npy").multiplicity(wanted)[0])
    return Explanation(uid, file.path.stem, row, kept, scores, operations)


def _find(files: Sequence[ScoreFile], uid: str) -> tuple[ScoreFile, int]:
    for file in files:
        row = pc.index(file.read("uid"), pa.scalar(uid, pa.string())).as_py()
        if row >= 0:
            return file, row
    raise ClipsiftError(f"explain: uid {uid} is not in the run's pool ({len(files)} score files)")


def _explain_step(
    step: dict[str, Any], files: Sequence[ScoreFile], file: ScoreFile, row: int, uid: str, is_in: bool
) -> ScoreExplained:
    name, threshold = step["name"], step["threshold"]
    value = float(file.column(name)[row])
    better = num_scored = 0
    for other in files:
        scores = other.column(name)
        scores = scores[np.isfinite(scores)]
        better += int(np.count_nonzero(scores > value))
        num_scored += len(scores)
    last_tie = step.get("last_tie")
    kept = threshold is not None and value >= threshold and np.isfinite(value)
    if kept and value == threshold and last_tie is not None:
        kept = uid <= last_tie
    outcome = "was out" if not is_in else "kept" if kept else "dropped"
    return ScoreExplained(name, value, better + 1, num_scored, threshold, outcome)


def format_explanation(explanation: Explanation) -> str:
    """The explanation as lines of text."""
    count = explanation.multiplicity
    lines = [
        f"uid      {explanation.uid.rjust(UID_WIDTH, '0')}",
        f"place    {explanation.stem}, row {explanation.row}",
        f"subset   {'not kept' if not count else 'kept' if count == 1 else f'kept {count} times'}",
        *(f"set      {words}" for words in explanation.operations),
    ]
    for score in explanation.scores:
        cut = "none kept" if score.threshold is None else f"cut {score.threshold:.6g}"
        rank = f"rank {score.rank:,} of {score.num_scored:,}" if np.isfinite(score.value) else "no usable features"
        lines.append(
            f"score    {score.name}: {score.value:.6g}, {rank}, quantile {score.quantile:.4f}, {cut}: {score.outcome}"
        )
    return "\n".join(lines)
