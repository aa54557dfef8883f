"""What is kept, as data: steps that each keep a share of the pool, then set operations with other subsets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipsift_common.errors import ClipsiftError
from selection.methods import METHODS
from selection.recipe.step import Step, with_distinct_names
from selection.scores import SCORES
from selection.scoring.column import Column


@dataclass(frozen=True)
class ParsedRecipe:
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
    ) -> ParsedRecipe:
        """Check everything that can be checked without looking at the disk: scores, options, fractions."""
        parsed = with_distinct_names([Step.parse(number, values) for number, values in enumerate(steps)])
        operations = [*(union or []), *(intersect or []), *(subtract or [])]
        for number, step in enumerate(parsed):
            if step.method and METHODS[step.method].repeats and (operations or number < len(parsed) - 1):
                raise ClipsiftError(
                    f"selection.steps[{number}]: {step.method} repeats samples, which a later step or set operation "
                    "would lose; make it the last step and apply set operations to the file it writes"
                )
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
    def centroids(self) -> frozenset[str]:
        """Those of the targets that are centroids."""
        options = [step.options for step in self.steps]
        options += [leaf.options for step in self.steps if step.column for leaf in step.column.leaves()]
        return frozenset(given["centroids"] for given in options if isinstance(given.get("centroids"), str))

    @property
    def language_models(self) -> list[str]:
        """The files of the language models that scores use, sorted."""
        leaves = (leaf for step in self.steps if step.column for leaf in step.column.leaves())
        named = {leaf.options.get("language") for leaf in leaves}
        return sorted(name for name in named if isinstance(name, str) and name != "off")

    @property
    def subsets(self) -> list[str]:
        """The subset files of set operations, in order."""
        return [*([self.within] if self.within else []), *self.union, *self.intersect, *self.subtract]

    def check_subsets(self) -> None:
        """Raise :class:`ClipsiftError` for a subset file that is not there."""
        for path in self.subsets:
            if not Path(path).is_file():
                raise ClipsiftError(f"selection: the subset file {path} does not exist")

    @property
    def versions(self) -> dict[str, int]:
        """The version of the code of each score and method, by name."""
        scores = {column.score: SCORES[column.score].version for column in self.columns}
        return scores | {step.method: METHODS[step.method].version for step in self.steps if step.method}

    @property
    def needs_features(self) -> bool:
        """Whether any step looks at image or text features."""
        return self.gathers_features or any(column.needs for column in self.columns)

    @property
    def towers(self) -> frozenset[str]:
        """Which of image and text features any step looks at."""
        methods = (METHODS[step.method].needs for step in self.steps if step.method)
        needs = {need for column in self.columns for need in column.needs} | {need for part in methods for need in part}
        return frozenset(needs)

    @property
    def gathers_features(self) -> bool:
        """Whether :meth:`apply` needs ``features``: some method looks at those of the samples that are left."""
        return any(step.method and METHODS[step.method].needs for step in self.steps)

    @property
    def num_streamed(self) -> int:
        """How many steps, from the first, can be taken without all samples in one place.

        That are those before the first set method that wants all in memory.
        """
        in_memory = (
            number for number, step in enumerate(self.steps) if step.method and not (step.by_file or step.by_part)
        )
        return next(in_memory, len(self.steps))

    @property
    def combinations(self) -> tuple[Column, ...]:
        """The distinct columns of steps that are made of other columns, in order of use."""
        used = (step.column for step in self.steps if step.column and step.column.of)
        return tuple({column.name: column for column in used}.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for provenance."""
        return asdict(self)
