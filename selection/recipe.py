"""What is kept, as data: steps that each keep a share of the pool, then set operations with other subsets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from common.errors import ClipsiftError
from selection.pool import Pool
from selection.scores import SCORES
from selection.subset import Subset
from selection.top import keep_datacomp, keep_threshold, keep_top, num_to_keep

SETTINGS = ("score", "keep", "count", "threshold", "ties", "name")  # of a step; every other key is the score's own


@dataclass(frozen=True)
class Step:
    """Keep the best by one score.

    Exactly one of ``keep`` (a fraction of the POOL, not of what the step before left: in (0, 1]), ``count`` (a number
    of samples) and ``threshold`` (``>=``) says how many. ``ties``: ``exact`` keeps exactly ``int(n * keep)``, equal
    scores in order of uid; ``datacomp`` keeps all that score at least as high as the sample at rank ``int(n * keep)``:
    one more than that and all its ties, as DataComp's own filter does.
    """

    score: str
    keep: float | None = None
    count: int | None = None
    threshold: float | None = None
    ties: Literal["exact", "datacomp"] = "exact"
    name: str = ""  # of the score column
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, number: int, values: dict[str, Any]) -> Step:
        """A step from its YAML mapping; everything wrong with it is a :class:`ClipsiftError` that says where."""
        where = f"selection.steps[{number}]"
        if not isinstance(values, dict) or "score" not in values:
            raise ClipsiftError(f"{where}: a step is a mapping with a score, such as {{score: clip_score, keep: 0.3}}")
        score = values["score"]
        if score not in SCORES:
            raise ClipsiftError(f"{where}: no score is named {score!r} (there are {', '.join(sorted(SCORES))})")
        options = {key: value for key, value in values.items() if key not in SETTINGS}
        try:
            SCORES[score].check(options)
        except ClipsiftError as error:
            raise ClipsiftError(f"{where}: {error}") from error
        settings = {key: value for key, value in values.items() if key in SETTINGS}
        step = cls(**{"name": score} | settings, options=options)
        step._check(where)
        return step

    def _check(self, where: str) -> None:
        given = [name for name in ("keep", "count", "threshold") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ClipsiftError(
                f"{where}: say exactly one of keep, count, threshold (got {', '.join(given) or 'none'})"
            )
        value = getattr(self, given[0])
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ClipsiftError(f"{where}: {given[0]} is a number, got {value!r}")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ClipsiftError(f"{where}: keep is a fraction in (0, 1], got {self.keep}")
        if self.count is not None and (self.count < 1 or self.count != int(self.count)):
            raise ClipsiftError(f"{where}: count is a whole number of at least 1, got {self.count}")
        if self.ties not in ("exact", "datacomp"):
            raise ClipsiftError(f"{where}: ties is exact or datacomp, got {self.ties!r}")
        if self.ties == "datacomp" and self.keep is None:
            raise ClipsiftError(f"{where}: ties: datacomp goes with keep")

    @property
    def targets(self) -> list[str]:
        """The target sets that the score compares with."""
        return [self.options[option] for option in ("target", "target_text") if self.options.get(option)]

    def mask(self, scores: np.ndarray, uids: np.ndarray, num_pool: int) -> np.ndarray:
        """(n,) bool over the rows that are left; ``num_pool`` is what ``keep`` is a fraction of."""
        if self.threshold is not None:
            return keep_threshold(scores, self.threshold)
        if self.count is not None:
            return keep_top(scores, uids, int(self.count))
        assert self.keep is not None
        if self.ties == "datacomp":
            return keep_datacomp(scores, num_to_keep(num_pool, float(self.keep)))
        return keep_top(scores, uids, num_to_keep(num_pool, float(self.keep)))


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
        parsed = [Step.parse(number, values) for number, values in enumerate(steps)]
        files = [*([within] if within else []), *(union or []), *(intersect or []), *(subtract or [])]
        for path in files:
            if not Path(path).is_file():
                raise ClipsiftError(f"selection: the subset file {path} does not exist")
        named = tuple(_distinct_names(parsed))
        return cls(named, within, tuple(union or ()), tuple(intersect or ()), tuple(subtract or ()))

    @property
    def needs_features(self) -> bool:
        """Whether any step looks at image or text features."""
        return any(SCORES[step.score].needs for step in self.steps)

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

    def apply(self, uids: np.ndarray, columns: dict[str, np.ndarray]) -> tuple[Subset, dict[str, Any]]:
        """Choose from scored samples.

        Args:
            uids: (n,) of the pool.
            columns: (n,) float32 scores by column name, higher is better; NaN marks a row without usable features,
                which counts towards the pool's size and is never kept by a step.

        Returns:
            The subset, and what each step did (for ``subset.json``).
        """
        left = np.arange(len(uids))
        if self.within:
            left = left[Subset.load(self.within).multiplicity(uids) > 0]
        num_pool, done = len(left), []
        for step in self.steps:
            scores = columns[step.name][left]
            mask = step.mask(scores, uids[left], num_pool)
            left = left[mask]
            cut = float(scores[mask].min()) if mask.any() else None
            asked = step.keep or step.count
            record = {"name": step.name, "score": step.score, "keep": asked, "num_kept": len(left), "threshold": cut}
            done.append(record | {"options": step.options})
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


def _distinct_names(steps: list[Step]) -> list[Step]:
    """Number the columns of scores that occur several times: ``normsim``, ``normsim_2`` ..."""
    seen: dict[str, int] = {}
    result = []
    for step in steps:
        seen[step.name] = seen.get(step.name, 0) + 1
        result.append(step if seen[step.name] == 1 else replace(step, name=f"{step.name}_{seen[step.name]}"))
    return result
