"""Pool -> features -> score columns -> subset: one function, over all ranks, that resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from clipsift_common.clip import LoadedCLIP
from clipsift_common.data_report import DataReport
from clipsift_common.distributed import on_rank_zero
from clipsift_common.engines.base import GROUP, Group, Part
from clipsift_common.engines.on_ray import Ray
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import (
    Contents,
    array_fingerprint,
    file_fingerprint,
    fingerprint,
    wait_for,
    write_json,
)
from clipsift_common.images import DECODING
from clipsift_common.machine import Machine, device_of, num_workers
from selection.features.arrays import Arrays
from selection.features.embed import embed
from selection.features.embedding_note import refuse_unfinished
from selection.features.files import FeatureFile, FeatureRows
from selection.features.in_tars import WEBDATASET, features_in_tars
from selection.features.sizes import count_rows, metadata_report
from selection.features.target import TRUSTED, load_target
from selection.features.target_rows import Targets, checked_rows
from selection.finished import is_done
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.recipe.gather import PoolFeatures
from selection.recipe.parsed import ParsedRecipe
from selection.recipe.stream import choose
from selection.scoring.column import by_content
from selection.scoring.columns import BLOCK_ROWS, ScorePlan, column_keys, lost_in, write_blocks, write_scores
from selection.scoring.parts import check_parts, claim
from selection.settings import Selection
from selection.source import Source, content_of, metadata_contents, metadata_source, uid_files

EMBEDDED = "teacher"  # prefix of the feature arrays that we make ourselves


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
        engine: what embeds shards and scores blocks; the rest is done by the processes of this launch.
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
    engine: Group | Ray = GROUP

    @cached_property
    def recipe(self) -> ParsedRecipe:
        return self.selection.check(self.trusted)

    @cached_property
    def clip(self) -> LoadedCLIP | None:
        return self.teacher() if self.teacher and self.recipe.needs_features else None

    @cached_property
    def index(self) -> PoolIndex:
        assert isinstance(self.pool, Pool)
        return PoolIndex.build(
            self.pool, self.cache, num_workers(self.selection.embedding.workers, self.machine), self.max_loss
        )

    def run(self) -> Path:
        """Select, unless it is done; return the subset file.

        Raises:
            ClipsiftError: for settings that contradict the files, a run directory with another selection in it, more
                than ``max_loss`` of the pairs lost, or an empty subset.
        """
        folder = self.out / "selection"
        recipe = self.recipe
        source = self._source()
        inputs = on_rank_zero(self._inputs)
        versions = recipe.versions | dict(source.versions)
        parents = {"features": source.identity, "inputs": inputs, "code": versions}
        how = [self.selection.per_file, self.selection.normalise]
        known = by_content(recipe.as_dict(), inputs)
        about = {"recipe": recipe.as_dict(), "seed": self.seed, "parents": parents, "how": how}
        about["identity"] = fingerprint([known, self.seed, how, source.identity, versions])
        if on_rank_zero(lambda: is_done(folder, about, source.identity_before)):
            return folder / "subset.npy"
        files = source.make()
        plan = replace(self._plan(inputs), content=source.content)
        check_parts(files, plan, folder)
        self._score(source, files, plan)
        chosen = self._choose(files, plan, folder, str(about["identity"]))
        if not chosen["num_kept"]:
            (folder / "subset.npy").unlink(missing_ok=True)
            raise ClipsiftError(f"selection: nothing is left of {chosen['num_pool']} pairs; see {folder / 'scores'}")
        on_rank_zero(lambda: _finish(folder, chosen | about))
        wait_for(folder / "subset.json")
        return folder / "subset.npy"

    def score(self) -> None:
        """Write the score columns and choose nothing; :meth:`run` finds them. A collective call."""
        source, inputs = self._source(), on_rank_zero(self._inputs)
        files = source.make()
        self._score(source, files, replace(self._plan(inputs), content=source.content))

    def score_part(self, part: Part) -> DataReport:
        """Write the score columns of a part of the pool's metadata, without a group.

        Returns:
            Counts of the part's rows that have no score.

        Raises:
            ClipsiftError: when features must be made first, or the run directory has parts of other scores.
        """
        folder, pool = self.out / "selection", self.pool
        assert isinstance(pool, Pool)
        if self.teacher and self.recipe.needs_features:
            raise ClipsiftError(
                f"score: with --part, the teacher's features are made before: clipsift embed --pool {pool.location} "
                f"--name {EMBEDDED} --out FEATURES --part {part} and the model's; then give --pool FEATURES/metadata, "
                f"--selection.features {EMBEDDED} and --selection.teacher null"
            )
        files = self._metadata()
        if not files:
            raise ClipsiftError(f"score: {pool.location} has no metadata to share by part; clipsift select needs none")
        plan = self._plan(self._inputs())
        claim(folder, plan, part.total)
        blocks = plan.blocks(files)
        mine: Sequence[Sequence[FeatureFile]] = part.share(blocks)
        kept = Contents(self.cache / "contents" / f"part-{part.number}-of-{part.total}")
        contents = metadata_contents([file for block in mine for file in block], pool, kept)
        plan = replace(plan, content=partial(content_of, contents))
        write_blocks(blocks, plan, folder / "scores", part)
        return lost_in(mine, plan, folder / "scores")

    def _score(self, source: Source, files: Sequence[FeatureRows], plan: ScorePlan) -> None:
        """Write the scores of all files, and what was lost on the way here."""
        folder = self.out / "selection"
        if isinstance(self.engine, Ray):
            plan = plan.on(torch.device("cuda" if self.engine.uses_gpus else "cpu"))
        lost = write_scores(files, plan, folder / "scores", self.engine)
        if source.is_counted:
            lost.samples = 0
        self.report.merge(lost)
        self.report.check(self.max_loss)
        on_rank_zero(lambda: write_json(folder / "data_report.json", self.report.as_dict()))

    def _metadata(self) -> list[FeatureFile]:
        """The pool's metadata files, with the features that the settings name. A collective call.

        Raises :class:`ClipsiftError` for features of which only a part was made.
        """
        assert isinstance(self.pool, Pool)
        files = [FeatureFile(file.url, self.selection.features, file.name) for file in self.pool.metadata]
        on_rank_zero(lambda: refuse_unfinished({Path(file.path).parent: None for file in files}))
        return files

    def _choose(self, files: Sequence[FeatureRows], plan: ScorePlan, folder: Path, identity: str) -> dict[str, Any]:
        gathered = None
        if self.recipe.gathers_features:
            gathered = PoolFeatures(files, plan.device, plan.target, folder, plan.normalise, identity)
        paths = [folder / "scores" / f"{file.stem}.parquet" for file in files]
        return choose(paths, self.recipe, folder / "subset.npy", gathered, self.seed)

    def _inputs(self) -> dict[str, str]:
        """The content of the files that the recipe names, by the names it has for them."""
        self.recipe.check_subsets()
        contents = Contents(self.cache / "contents")
        given = {name: array_fingerprint(rows.cpu().numpy()) for name, rows in self.targets.items()}
        named = [*self.recipe.targets, *self.recipe.language_models, *self.recipe.subsets]
        places = {name: self.trusted if name == TRUSTED else name for name in named}
        there = {name: place for name, place in places.items() if place and Path(place).exists()}
        return {name: contents.of(place) for name, place in there.items() if name not in given} | given

    def _source(self) -> Source:
        """What is scored: arrays, the pool's metadata, or what is made here from its tars."""
        pool = self.pool
        if isinstance(pool, Arrays):
            return Source(pool.fingerprint(), lambda: [pool])
        if self.selection.features == WEBDATASET:
            return self._in_tars()
        embeds = self.teacher is not None and self.recipe.needs_features
        if self.selection.features or (pool.metadata and not embeds):
            files = self._metadata()
            if not files:
                raise ClipsiftError(
                    f"pool: {pool.location} has no metadata/*.parquet with features "
                    f"{self.selection.features}; give a teacher instead"
                )
            return metadata_source(files, pool, Contents(self.cache / "contents"), lambda: self._weighed(files))
        index = self.index.fingerprint  # made first: a pool of which too much is lost costs no teacher's training
        if self.clip is None:
            return Source(index, self._listed, is_counted=True)
        precision = self.selection.embedding.precision
        identity = fingerprint([index, self.clip.identity, precision])
        return Source(identity, self._embedded, is_counted=True, versions={"decoding": DECODING})

    def _in_tars(self) -> Source:
        """The features that lie in the pool's tars."""
        files, lost = features_in_tars(
            self.index, self.recipe.towers, self.cache / "features" / fingerprint(WEBDATASET)
        )

        def make() -> list[FeatureFile]:
            self.report.merge(self.index.report)
            self.report.merge(lost)
            return files

        return Source(on_rank_zero(lambda: fingerprint([file.fingerprint() for file in files])), make, is_counted=True)

    def _weighed(self, files: list[FeatureFile]) -> list[FeatureFile]:
        """The pool's metadata, when not too much of it is left out."""
        assert isinstance(self.pool, Pool)
        pool, rows = self.pool, sum(count_rows(files))
        self.report.samples += rows
        self.report.merge(on_rank_zero(lambda: metadata_report(pool, files, rows)))
        self.report.check(self.max_loss)
        return files

    def _embedded(self) -> list[FeatureFile]:
        """The features that the teacher makes."""
        assert self.clip is not None
        self.report.merge(self.index.report)
        embedding = self.selection.embedding
        files, lost = embed(
            self.index,
            self.clip,
            self.cache / "features" / fingerprint([self.clip.identity, embedding.precision, DECODING]),
            EMBEDDED,
            self.machine,
            embedding.batch_size,
            num_workers(embedding.workers, self.machine),
            embedding.precision,
            by_content=True,
            engine=self.engine,
        )
        self.report.merge(lost)
        return files

    def _listed(self) -> list[FeatureFile]:
        """The uids of the index."""
        self.report.merge(self.index.report)
        return uid_files(self.index, self.cache / "features" / fingerprint("uids"))

    def _plan(self, inputs: Mapping[str, str]) -> ScorePlan:
        device = device_of(self.machine)
        loaded = {source: self._target(source, device) for source in self.recipe.targets}
        contents = dict(inputs) | {name: array_fingerprint(rows.cpu().numpy()) for name, rows in loaded.items()}
        block_rows = 0 if self.selection.per_file else BLOCK_ROWS
        columns = self.recipe.columns
        normalise = self.selection.normalise
        keys = column_keys(columns, self.seed, contents, normalise)
        target = Targets(loaded, device)
        return ScorePlan(columns, keys, self.cache / "scores", self.seed, device, target, block_rows, normalise)

    def _target(self, source: str, device: torch.device) -> torch.Tensor:
        """(t, d) features of a target set; a collective call."""
        given = self.targets.get(source)
        if given is None:
            name = self.selection.features or EMBEDDED
            given = load_target(source, self.clip, name, self.cache, device, self.trusted)
        return checked_rows(source, given, self.selection.normalise, any_length=source in self.recipe.centroids)


def _finish(folder: Path, about: dict[str, Any]) -> None:
    """Write last what says that the subset is whole."""
    write_json(folder / "subset.json", about | {"fingerprint": file_fingerprint(folder / "subset.npy")})
