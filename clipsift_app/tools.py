"""The verbs beside the pipeline: subset, explain and reshard look at subsets; target makes what scores compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.table import Table

from clipsift_app.arguments import existing_file, parse_settings, say
from clipsift_app.report.score_sample import read_scores
from clipsift_app.settings import RunSettings, parse_run
from clipsift_app.stages import open_index
from clipsift_common.clip import load_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path
from clipsift_common.images import ImageError, open_image
from clipsift_common.machine import Machine, device_of, launch
from clipsift_common.progress import make_console
from selection.features.files import FeatureFile
from selection.features.target_sets import embed_target
from selection.overlap import jaccard, overlaps, rank_correlation
from selection.pool.index import PoolIndex, Sample
from selection.pool.location import Pool, stem
from selection.recipe.explain import Explanation, explain, format_explanation
from selection.reshard import SHARD_SIZE, reshard
from selection.subset import Subset
from selection.subset_files import combine
from selection.uids import parse_uids, sort_key

_OPERATIONS = {"union": "union", "intersect": "intersection", "subtract": "difference"}
_SUBSET_USAGE = (
    "clipsift subset info|compare FILE_OR_RUN ..., or clipsift subset union|intersect|subtract FILE_OR_RUN ... --out F"
)


@dataclass
class _SubsetSettings:
    """Where the result of union, intersect or subtract goes."""

    out: str | None = None


def _subset(arguments: list[str]) -> None:
    split = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    words, rest = arguments[:split], arguments[split:]
    settings = parse_settings(_SubsetSettings, rest)
    if len(words) < 2 or words[0] not in ("info", "compare", *_OPERATIONS):
        raise ClipsiftError(f"subset: say {_SUBSET_USAGE}")
    action, places = words[0], words[1:]
    subsets = [Subset.load(_subset_file(place)) for place in places]
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


def _subset_file(place: str) -> Path:
    return Path(place) / "selection" / "subset.npy" if Path(place).is_dir() else Path(place)


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


@dataclass
class _ExplainSettings:
    """Which sample of which run; its picture is saved into ``out``, by default the run's ``explain`` folder."""

    uid: str
    run: str
    out: str | None = None


def _explain(arguments: list[str]) -> None:
    settings = parse_settings(_ExplainSettings, arguments, positional="uid")
    run = Path(settings.run)
    explanation = explain(run, settings.uid)
    print(format_explanation(explanation))
    try:
        about = parse_run(["--config", str(existing_file(run / "config.yaml"))], needs_eval=False)
    except ClipsiftError as error:
        return print(f"pool     not at hand: {error}")
    index = open_index(about.pool, about.cache)
    row = int(index.find(parse_uids([explanation.uid]))[0]) if index is not None else -1
    if index is not None and row >= 0:
        _show(index.read(row), Path(settings.out or run / "explain"))
    elif (caption := _caption(about, explanation)) is not None:
        print(f"caption  {caption}")


def _show(sample: Sample, folder: Path) -> None:
    print(f"shard    {sample.shard}, key {sample.key}\ncaption  {sample.caption}")
    try:
        suffix = (open_image(sample.image).format or "jpg").lower()
    except ImageError as error:
        print(f"picture  {error}")
        return
    with atomic_path(folder / f"{sample.uid}.{suffix}") as temporary:
        temporary.write_bytes(sample.image)
    print(f"picture  {folder / f'{sample.uid}.{suffix}'}")


def _caption(about: RunSettings, explanation: Explanation) -> str | None:
    """The caption from the metadata, when there are no shards."""
    path = next((path for path in Pool(about.pool).metadata if stem(path) == explanation.stem), None)
    if path is None or "text" not in FeatureFile(path).column_names():
        return None
    return str(FeatureFile(path).column("text")[explanation.row])


@dataclass
class _ReshardSettings:
    """Which samples of which pool become shards of their own under ``out``; ``cache`` holds the pool's index."""

    pool: str
    subset: str
    out: str
    cache: str | None = None
    shard_size: int = SHARD_SIZE
    workers: int = 2
    max_loss: float = 0.01
    trainer: Machine = field(default_factory=Machine)


def _reshard(arguments: list[str]) -> None:
    settings = parse_settings(_ReshardSettings, arguments)
    pool, subset = Pool(settings.pool), Subset.load(_subset_file(settings.subset))
    launch(settings.trainer)
    cache = Path(settings.cache or f"{settings.out}/.cache")
    index = PoolIndex.build(pool, cache, settings.workers, settings.max_loss)
    about = reshard(index, subset, Path(settings.out), settings.shard_size)
    say(f"reshard: {about['kept']:,} samples in {about['shards']:,} shards: {settings.out}")


@dataclass
class _TargetSettings:
    """Features of the train images of several evaluation sets, which lie under ``data``, as a target for recipes."""

    name: str
    data: str
    model: str
    pretrained: str | None
    out: str
    trainer: Machine = field(default_factory=Machine)


def _target(arguments: list[str]) -> None:
    settings = parse_settings(_TargetSettings, arguments, positional="name")
    clip = load_clip(settings.model, settings.pretrained)
    device = device_of(launch(settings.trainer))
    files = embed_target(settings.name, Path(settings.data), clip, Path(settings.out), device)
    say(f"target: {len(files)} sets in {settings.out}")


TOOLS: dict[str, Callable[[list[str]], None]] = {
    "subset": _subset,
    "explain": _explain,
    "reshard": _reshard,
    "target": _target,
}
