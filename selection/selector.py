"""Pool -> features -> score columns -> subset: one function, over all ranks, that resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clipsift_common.clip import LoadedCLIP
from clipsift_common.data_report import DataReport
from clipsift_common.distributed import barrier, on_rank_zero, rank
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import (
    array_fingerprint,
    atomic_path,
    file_fingerprint,
    fingerprint,
    read_json,
    wait_for,
    write_json,
)
from clipsift_common.machine import Machine, device_of
from selection.features.arrays import Arrays
from selection.features.embed import embed
from selection.features.files import FeatureFile, FeatureRows
from selection.features.target import load_target
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.recipe.gather import PoolFeatures
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.stream import choose
from selection.scoring.columns import BLOCK_ROWS, ScorePlan, column_keys, write_scores
from selection.settings import Selection
from selection.uids import uid_column

EMBEDDED = "teacher"  # prefix of the feature arrays that we make ourselves
OPEN_FILES = 16  # metadata files whose ends are read at a time; an object store takes its time for each


@dataclass
class Selector:
    """Everything a selection runs on.

    Args:
        selection: the settings.
        pool: the candidates.
        out: the run directory; results go to ``out/selection``.
        cache: what several runs may share: index, features, target features.
        seed: of random batches.
        machine: where features are made and scores computed.
        teacher: gives the teacher's weights; called only when they are needed.
        trusted: folder of trusted shards, for ``target: trusted``.
        max_loss: share of the pairs that may be damaged, in [0, 1].
        targets: features of target sets by name, (t, d) each; other targets are files or folders.
    """

    selection: Selection
    pool: Pool | Arrays
    out: Path
    cache: Path
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    teacher: Callable[[], LoadedCLIP] | None = None
    trusted: str | None = None
    max_loss: float = 0.01
    targets: Mapping[str, torch.Tensor] = field(default_factory=dict)
    report: DataReport = field(default_factory=DataReport)

    @cached_property
    def recipe(self) -> ParsedRecipe:
        return self.selection.check(self.trusted)

    @cached_property
    def clip(self) -> LoadedCLIP | None:
        return self.teacher() if self.teacher and self.recipe.needs_features else None

    @cached_property
    def index(self) -> PoolIndex:
        assert isinstance(self.pool, Pool)
        return PoolIndex.build(self.pool, self.cache, self.selection.embedding.num_workers(self.machine), self.max_loss)

    def run(self) -> Path:
        """Select, unless it is done; return the subset file.

        Raises:
            ClipsiftError: for settings that contradict the files, a run directory with another selection in it, more
                than ``max_loss`` of the pairs lost, or an empty subset.
        """
        folder = self.out / "selection"
        recipe = self.recipe
        files, features = self._feature_files()
        parents = {"features": features, "subsets": on_rank_zero(lambda: _subset_files(recipe))}
        how = [self.selection.per_file, self.selection.normalise]
        identity = fingerprint([recipe.as_dict(), self.seed, how, parents])
        if on_rank_zero(lambda: _is_done(folder, identity)):
            return folder / "subset.npy"
        plan = self._plan(features)
        lost = write_scores(files, plan, folder / "scores")
        if self.report.samples:  # the index has counted them
            lost.samples = 0
        self.report.merge(lost)
        self.report.check(self.max_loss)
        if rank() == 0:
            write_json(folder / "data_report.json", self.report.as_dict())
        about = self._choose(files, plan, folder)
        if not about["num_kept"]:
            (folder / "subset.npy").unlink(missing_ok=True)
            raise ClipsiftError(f"selection: nothing is left of {about['num_pool']} pairs; look at {folder / 'scores'}")
        if rank() == 0:
            about |= {"recipe": recipe.as_dict(), "seed": self.seed, "parents": parents, "identity": identity}
            write_json(folder / "subset.json", about | {"fingerprint": file_fingerprint(folder / "subset.npy")})
        barrier()
        wait_for(folder / "subset.json")
        return folder / "subset.npy"

    def _choose(self, files: Sequence[FeatureRows], plan: ScorePlan, folder: Path) -> dict[str, Any]:
        gathered = None
        if self.recipe.gathers_features:
            gathered = PoolFeatures(files, plan.device, plan.target, folder, plan.normalise)
        paths = [folder / "scores" / f"{file.stem}.parquet" for file in files]
        return choose(paths, self.recipe, folder / "subset.npy", gathered, self.seed)

    def _feature_files(self) -> tuple[Sequence[FeatureRows], str]:
        """The metadata to score and its fingerprint: the pool's own, or made here from its tars."""
        if isinstance(self.pool, Arrays):
            return [self.pool], self.pool.fingerprint()
        if self.selection.features or (self.pool.metadata and not self.clip):
            files = [FeatureFile(path, self.selection.features) for path in self.pool.metadata]
            if not files:
                raise ClipsiftError(
                    f"pool: {self.pool.location} has no metadata/*.parquet with features "
                    f"{self.selection.features}; give a teacher instead"
                )
            return files, on_rank_zero(lambda: _fingerprint(files))
        self.report.merge(self.index.report)
        if self.clip is None:
            return self._listed()
        embedding = self.selection.embedding
        identity = fingerprint([self.index.fingerprint, self.clip.identity, embedding.precision])
        files, lost = embed(
            self.index,
            self.clip,
            self.cache / "features" / identity,
            EMBEDDED,
            self.machine,
            embedding.batch_size,
            embedding.num_workers(self.machine),
            embedding.precision,
        )
        self.report.merge(lost)
        return files, identity

    def _listed(self) -> tuple[list[FeatureFile], str]:
        """Metadata without features: the uids of the index, for recipes that look at no feature."""
        folder = self.cache / "features" / self.index.fingerprint
        names = [shard.name for shard in self.index.shards]
        if rank() == 0:
            for number, name in enumerate(names):
                rows = self.index.shard_rows(number)
                uids = self.index.uids[rows.start : rows.stop]
                _write_uids(folder / f"{name}.parquet", uids)
        barrier()
        return [FeatureFile(str(folder / f"{name}.parquet")) for name in names], self.index.fingerprint

    def _plan(self, features: str) -> ScorePlan:
        device = device_of(self.machine)
        loaded: dict[str, torch.Tensor] = {}
        name = self.selection.features or EMBEDDED

        def target(source: str) -> torch.Tensor:
            if source not in loaded:
                given = self.targets.get(source)
                if given is None:
                    given = load_target(source, self.clip, name, self.cache, device, self.trusted)
                loaded[source] = given.to(device)
            return loaded[source]

        for source in self.recipe.targets:  # before the ranks part: making one is a collective
            target(source)
        prints = {source: array_fingerprint(features.cpu().numpy()) for source, features in loaded.items()}
        block_rows = 0 if self.selection.per_file else BLOCK_ROWS
        columns = self.recipe.columns
        normalise = self.selection.normalise
        keys = column_keys(columns, features, self.seed, prints, block_rows, normalise)
        return ScorePlan(columns, keys, self.cache / "scores", self.seed, device, target, block_rows, normalise)


def _fingerprint(files: list[FeatureFile]) -> str:
    with ThreadPoolExecutor(OPEN_FILES) as opened:
        return fingerprint(list(opened.map(FeatureFile.fingerprint, files)))


def _is_done(folder: Path, identity: str) -> bool:
    """Whether the folder holds this selection. Raises :class:`ClipsiftError` when it holds another."""
    if not (folder / "subset.json").is_file():
        return False
    if read_json(folder / "subset.json")["identity"] != identity:
        raise ClipsiftError(f"{folder}: holds a selection made with other settings; use another --out or delete it")
    return True


def _subset_files(recipe: ParsedRecipe) -> dict[str, Any]:
    files = [*([recipe.within] if recipe.within else []), *recipe.union, *recipe.intersect, *recipe.subtract]
    return {Path(path).name: file_fingerprint(path) for path in files}


def _write_uids(path: Path, uids: np.ndarray) -> None:
    if not path.is_file():
        with atomic_path(path) as temporary:
            pq.write_table(pa.table({"uid": uid_column(uids)}), temporary)
