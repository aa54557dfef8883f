"""The verb ``subset``: sizes, overlaps and set operations of subset files."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.table import Table

from clipsift_app.paths import expand_home, subset_file
from clipsift_app.report.score_sample import read_scores
from clipsift_app.verb_settings import parse_settings
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import make_console, say
from selection.overlap import jaccard, overlaps, rank_correlation
from selection.subset import Subset
from selection.subset_files import combine
from selection.uids import sort_key

_OPERATIONS = {"union": "union", "intersect": "intersection", "subtract": "difference"}
_USAGE = (
    "clipsift subset info|compare FILE_OR_RUN ..., or clipsift subset union|intersect|subtract FILE_OR_RUN ... --out F"
)


@dataclass
class SubsetSettings:
    """Where the result of union, intersect or subtract goes."""

    out: str | None = None


def run(arguments: list[str]) -> None:
    split = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    words, rest = expand_home(arguments[:split]), arguments[split:]
    settings = parse_settings(SubsetSettings, rest)
    if len(words) < 2 or words[0] not in ("info", "compare", *_OPERATIONS):
        raise ClipsiftError(f"subset: say {_USAGE}")
    action, places = words[0], words[1:]
    subsets = [Subset.load(subset_file(place)) for place in places]
    if action in _OPERATIONS:
        if settings.out is None:
            raise ClipsiftError("subset: --out is missing: the file for the result")
        operations = [(_OPERATIONS[action], other) for other in subsets[1:]] or [("union", subsets[0])]
        done = combine(settings.out, [subsets[0].uids], operations)
        return say(f"subset: {done.num_kept:,} uids in {settings.out}")
    shared = overlaps(subsets)
    _print_sizes(places, subsets, shared)
    if action == "compare":
        _print_overlaps(places, shared)
        _print_correlations([Path(place) for place in places if Path(place).is_dir()])


def _print_sizes(places: list[str], subsets: list[Subset], shared: np.ndarray) -> None:
    table = Table("subset", "samples", "unique", "repeated")
    for place, subset, unique in zip(places, subsets, np.diag(shared)):
        table.add_row(place, f"{len(subset):,}", f"{unique:,}", f"{len(subset) - unique:,}")
    make_console().print(table)


def _print_overlaps(places: list[str], shared: np.ndarray) -> None:
    table = Table("subset", "and", "both", "only the first", "only the second", "Jaccard")
    alike = jaccard(shared)
    for i, j in combinations(range(len(places)), 2):
        both = shared[i, j]
        numbers = (both, shared[i, i] - both, shared[j, j] - both)
        table.add_row(places[i], places[j], *(f"{number:,}" for number in numbers), f"{alike[i, j]:.4f}")
    make_console().print(table)


def _print_correlations(runs: list[Path]) -> None:
    """Spearman's correlation of every two score columns, over the samples that both runs scored."""
    samples = [(run, read_scores(run / "selection" / "scores", None)) for run in runs]
    columns = [
        (f"{run}: {name}" if len(runs) > 1 else name, sample.uids, scores)
        for run, sample in samples
        if sample is not None
        for name, scores in sample.columns.items()
    ]
    table = Table("score", "and", "samples", "rank correlation")
    for (name, uids, scores), (other, other_uids, other_scores) in combinations(columns, 2):
        _, rows, other_rows = np.intersect1d(sort_key(uids), sort_key(other_uids), return_indices=True)
        value = rank_correlation(scores[rows], other_scores[other_rows])
        table.add_row(name, other, f"{len(rows):,}", f"{value:.4f}")
    if table.row_count:
        make_console().print(table)
