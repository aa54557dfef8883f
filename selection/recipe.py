"""What is kept, as data: steps that each keep a share of the pool, then set operations with other subsets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch

from common.distributed import broadcast_object, rank
from common.errors import ClipsiftError
from common.files import fingerprint
from selection.combine import COMBINATIONS
from selection.pool import Pool
from selection.scores import SCORES
from selection.step import Column, Step, with_distinct_names
from selection.subset import Subset
from selection.subsets import METHODS, Candidates


class FeatureSource(Protocol):
    """Where set methods get features from; :class:`selection.gather.PoolFeatures` reads them from the pool's files.

    All ranks call together what is here.
    """

    def candidates(self, rows: np.ndarray, needs: tuple[str, ...], seed: int) -> tuple[Candidates, np.ndarray]:
        """Of the pool's ``rows`` (ascending) those with usable features, and the bool mask that says which they are."""

    def close(self) -> None:
        """Forget what :meth:`candidates` gave last."""


@dataclass(frozen=True)
class Recipe:
    """Sequential steps, then set operations, in this order: ``within``, steps, ``union``, ``intersect``, ``subtract``.

    ``within`` restricts the pool to a subset file *after* scoring (normalisers see the whole pool) and makes the
    steps' fractions refer to what is left, as the s-CLIPLoss authors do inside other people's subsets.
    """

    steps: tuple[Step, ...] = ()
    within: str | None = None
    union: tuple[str, ...] = ()
    intersect: tuple[str, ...] = ()
    subtract: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls,
        steps: list[dict[str, Any]],
        within: str | None = None,
        union: list[str] | None = None,
        intersect: list[str] | None = None,
        subtract: list[str] | None = None,
    ) -> Recipe:
        """Check everything that can be checked without data: scores, options, fractions, files that must exist."""
        parsed = with_distinct_names([Step.parse(number, values) for number, values in enumerate(steps)])
        operations = [*(union or []), *(intersect or []), *(subtract or [])]
        for number, step in enumerate(parsed):
            if step.method and METHODS[step.method].repeats and (operations or number < len(parsed) - 1):
                raise ClipsiftError(
                    f"selection.steps[{number}]: {step.method} repeats samples, which a later step or set operation "
                    "would lose; make it the last step and apply set operations to the file it writes"
                )
        for path in [*([within] if within else []), *operations]:
            if not Path(path).is_file():
                raise ClipsiftError(f"selection: the subset file {path} does not exist")
        return cls(tuple(parsed), within, tuple(union or ()), tuple(intersect or ()), tuple(subtract or ()))

    @property
    def columns(self) -> tuple[Column, ...]:
        """The distinct score columns to compute, in order of use."""
        used = (leaf for step in self.steps if step.column for leaf in step.column.leaves())
        return tuple({column.name: column for column in used}.values())

    @property
    def targets(self) -> list[str]:
        """The sources of target features, sorted."""
        return sorted({target for step in self.steps for target in step.targets})

    @property
    def needs_features(self) -> bool:
        """Whether any step looks at image or text features."""
        return self.gathers_features or any(SCORES[column.score].needs for column in self.columns)

    @property
    def gathers_features(self) -> bool:
        """Whether :meth:`apply` needs ``features``: some method looks at those of the samples that are left."""
        return any(step.method and METHODS[step.method].needs for step in self.steps)

    @property
    def num_streamed(self) -> int:
        """How many steps, from the first, can be taken without all samples' scores in one place.

        That are those before the first set method; none with a combination of scores, which compares the whole pool's.
        """
        if any(step.column and step.column.of for step in self.steps):
            return 0
        return next((number for number, step in enumerate(self.steps) if step.method), len(self.steps))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for provenance."""
        return asdict(self)

    def run(
        self, pool: Pool | str, features: str | None = None, out: str | Path | None = None, seed: int = 0
    ) -> Subset:
        """Score the pool's metadata and choose: the recipe from Python, without a run's settings.

        Args:
            pool: where the metadata is.
            features: prefix of the feature arrays there (``l14``), when the steps look at features.
            out: keeps the score columns under ``out/selection``; without it they are dropped.
            seed: of random batches.
        """
        from selection.config import Selection  # here: they know of this module
        from selection.select import Selector

        with TemporaryDirectory() as scratch:
            folder = Path(out or scratch)
            pool = pool if isinstance(pool, Pool) else Pool(pool)
            selection = Selection.of(self, features)
            return Subset.load(Selector(selection, pool, folder, folder / "cache", seed).run())

    def apply(
        self,
        uids: np.ndarray,
        columns: Mapping[str, np.ndarray],
        features: FeatureSource | None = None,
        seed: int = 0,
        rows: np.ndarray | None = None,
        num_pool: int | None = None,
    ) -> tuple[Subset, dict[str, Any]]:
        """Choose from scored samples. Of several processes all must call, with the same arguments.

        Args:
            uids: (n,) of the pool.
            columns: (n,) float32 scores by name of :attr:`columns`, higher is better; NaN marks a row without usable
                features, which counts towards the pool's size and is never kept by a step.
            features: gives those of chosen rows to set methods; only needed if :attr:`gathers_features`.
            seed: of methods that draw at random.
            rows: (n,) ascending, which rows of the pool the samples are, for ``features``; default 0 to n - 1.
            num_pool: how many there were before earlier steps, which fractions refer to; default n, or how many of
                them are ``within``.

        Returns:
            The subset, and what each step did (for ``subset.json``).
        """
        left = np.arange(len(uids))
        if self.within:
            left = left[Subset.load(self.within).multiplicity(uids) > 0]
        pool, done = left, []
        num_pool = num_pool or len(pool)
        rows = np.arange(len(uids)) if rows is None else rows
        for step in self.steps:
            scores = None if step.column is None else _values(step.column, columns, pool, len(uids))[left]
            cut = None
            if step.method:
                left = _choose(step, left, rows, scores, num_pool, features, seed)
            else:
                assert scores is not None
                mask = step.mask(scores, uids[left], num_pool)
                left, cut = left[mask], float(scores[mask].min()) if mask.any() else None
            asked, what = step.keep or step.count, step.score or step.method
            record = {"name": step.name, "score": what, "keep": asked, "num_kept": len(left), "threshold": cut}
            done.append({**record, "options": step.options})
        subset, operations = Subset(uids[left]), []
        for operation, files in (
            ("union", self.union),
            ("intersection", self.intersect),
            ("difference", self.subtract),
        ):
            for path in files:
                other = Subset.load(path)
                subset = getattr(subset, operation)(other)
                operations.append({"operation": operation, "file": path, "size": len(other), "num_kept": len(subset)})
        return subset, {"num_pool": num_pool, "steps": done, "operations": operations}


def _values(column: Column, columns: Mapping[str, np.ndarray], pool: np.ndarray, num_rows: int) -> np.ndarray:
    """(num_rows,) scores of a column; a combination looks at the rows of the pool, and is NaN elsewhere."""
    if not column.of:
        return columns[column.name]
    parts = [_values(part, columns, pool, num_rows)[pool] for part in column.of]
    values = np.full(num_rows, np.nan)
    values[pool] = COMBINATIONS[column.score](parts, **column.options)
    return values


def _choose(
    step: Step,
    left: np.ndarray,
    rows: np.ndarray,
    scores: np.ndarray | None,
    num_pool: int,
    features: FeatureSource | None,
    seed: int,
) -> np.ndarray:
    """The samples, of those ``left``, that a set method keeps, repeated where it says so."""
    spec = METHODS[step.method]
    if scores is not None:
        left, scores = left[np.isfinite(scores)], scores[np.isfinite(scores)]
    seed = int(fingerprint([seed, step.name]), 16) % (1 << 63)
    empty = torch.empty(len(left), 0)
    candidates, usable = Candidates(empty, empty, seed), np.ones(len(left), bool)
    if spec.needs:
        if features is None:
            raise ValueError(f"{step.method} needs the features of the samples that are left")
        candidates, usable = features.candidates(rows[left], spec.needs, seed)
    candidates.scores = None if scores is None else scores[usable]
    counts = np.empty(0, np.int64)
    try:
        if spec.over_ranks or rank() == 0:
            counts = spec(candidates, step.size(num_pool) if spec.sized else None, step.options)
    except ValueError as error:
        raise ClipsiftError(f"selection: {step.name}: {error}") from error
    return np.repeat(left[usable], counts if spec.over_ranks else broadcast_object(counts))
