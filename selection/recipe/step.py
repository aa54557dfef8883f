"""One step of a recipe: a score column to keep the best by, or a method that chooses a set."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint
from selection.methods import METHODS
from selection.options import infinity_as_word
from selection.recipe.top import keep_datacomp, keep_threshold, keep_top, num_to_keep
from selection.scoring.column import TARGET_OPTIONS, Column, named_targets

PATH_OPTIONS = (*TARGET_OPTIONS, "language")

_AMOUNTS = ("keep", "count", "threshold")
_SETTINGS = ("score", "method", "of", *_AMOUNTS, "ties", "name")  # of a step; every other key is an option


@dataclass(frozen=True)
class Step:
    """Keep the best by a score, or what a set method chooses among the samples that are left.

    With ``score``, exactly one of ``keep`` (a fraction of the POOL, not of what the step before left: in (0, 1]),
    ``count`` (a number of samples) and ``threshold`` (``>=``) says how many. ``ties``: ``exact`` keeps exactly
    ``int(n * keep)``, equal scores in order of uid; ``datacomp`` keeps all that score at least as high as the sample
    at rank ``int(n * keep)``: one more than that and all its ties, as DataComp's own filter does. A score may also be
    a combination (``rank_sum``, ``weighted_sum``) of the columns ``of``, made comparable over the whole pool.

    With ``method`` (see :mod:`selection.methods`), ``keep`` or ``count`` is given if it wants a size, and ``of`` is
    the column of a method that chooses by one.
    """

    score: str = ""
    keep: float | None = None
    count: int | None = None
    threshold: float | None = None
    ties: Literal["exact", "datacomp"] = "exact"
    name: str = ""  # of the score column; of a method, what it is called in records
    options: dict[str, Any] = field(default_factory=dict)
    method: str = ""
    of: tuple[Column, ...] = ()

    @classmethod
    def parse(cls, number: int, values: dict[str, Any]) -> Step:
        """A step from its YAML mapping; everything wrong with it is a :class:`ClipsiftError` that says where."""
        where = f"selection.steps[{number}]"
        if not isinstance(values, dict) or ("score" in values) == ("method" in values):
            raise ClipsiftError(
                f"{where}: a step is a mapping with a score, such as {{score: clip_score, keep: 0.3}}, or a method"
            )
        settings: dict[str, Any] = {key: values[key] for key in (*_AMOUNTS, "ties") if key in values}
        if "method" in values:
            step = cls(**settings, **_parse_method(where, values))
        else:
            column = Column.parse(where, {key: values[key] for key in values if key not in settings})
            step = cls(column.score, name=column.name, options=column.options, of=column.of, **settings)
        step._check(where)
        return step

    def _check(self, where: str) -> None:
        given = [name for name in _AMOUNTS if getattr(self, name) is not None]
        wanted: tuple[str, ...] = _AMOUNTS
        if self.method:
            wanted = _AMOUNTS[:2] if METHODS[self.method].sized else ()
        if len(given) != min(1, len(wanted)) or not set(given) <= set(wanted):
            say = f"say exactly one of {', '.join(wanted)}" if wanted else f"{self.method} decides itself how many stay"
            raise ClipsiftError(f"{where}: {say} (got {', '.join(given) or 'none'})")
        for name in given:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ClipsiftError(f"{where}: {name} is a number, got {value!r}")
        if self.keep is not None and not 0 < self.keep <= 1:
            raise ClipsiftError(f"{where}: keep is a fraction in (0, 1], got {self.keep}")
        if self.count is not None and (self.count < 1 or self.count != int(self.count)):
            raise ClipsiftError(f"{where}: count is a whole number of at least 1, got {self.count}")
        if self.ties not in ("exact", "datacomp"):
            raise ClipsiftError(f"{where}: ties is exact or datacomp, got {self.ties!r}")
        if self.ties == "datacomp" and (self.keep is None or self.method):
            raise ClipsiftError(f"{where}: ties: datacomp goes with keep")

    @property
    def column(self) -> Column | None:
        """What it chooses by; None for a method that looks at features alone."""
        if self.method:
            return self.of[0] if self.of else None
        return Column(self.name, self.score, self.options, self.of)

    @property
    def by_file(self) -> bool:
        """Whether it is a method that works by file, and not on samples in memory."""
        return bool(self.method) and METHODS[self.method].by_file

    @property
    def by_part(self) -> bool:
        """Whether it is a method that takes scores by parts; it is the last step then."""
        return bool(self.method) and METHODS[self.method].by_part

    @property
    def targets(self) -> list[str]:
        """All target sets that scores and method compare with."""
        leaves = self.column.leaves() if self.column else ()
        return [*(named_targets(self.options) if self.method else ()), *(t for leaf in leaves for t in leaf.targets)]

    def mask(self, scores: np.ndarray, uids: np.ndarray, num_pool: int) -> np.ndarray:
        """(n,) bool over the rows that are left; ``num_pool`` is what ``keep`` is a fraction of."""
        if self.threshold is not None:
            return keep_threshold(scores, self.threshold)
        if self.ties == "datacomp":
            return keep_datacomp(scores, self.size(num_pool))
        return keep_top(scores, uids, self.size(num_pool))

    def size(self, num_pool: int) -> int:
        """How many ``keep`` or ``count`` stand for."""
        if self.count is not None:
            return int(self.count)
        assert self.keep is not None
        return num_to_keep(num_pool, float(self.keep))

    def seed(self, seed: int) -> int:
        """The seed of a method, non-negative, of that of the run."""
        return int(fingerprint([seed, self.name]), 16) % (1 << 63)

    def as_yaml(self) -> dict[str, Any]:
        """The mapping that it is parsed from."""
        values = {key: getattr(self, key) for key in _AMOUNTS if getattr(self, key) is not None}
        values |= {"ties": self.ties} if self.ties != "exact" else {}
        if self.method:
            of = {"of": self.of[0].as_yaml()} if self.of else {}
            return values | {"method": self.method, "name": self.name} | of | self.options
        assert self.column is not None
        return values | self.column.as_yaml()


def with_distinct_names(steps: list[Step]) -> list[Step]:
    """Number the columns of scores that occur several times, ``normsim``, ``normsim_2`` ...; equal columns are one."""
    taken: dict[str, str] = {}  # name -> what it stands for

    def distinct(name: str, what: str) -> str:
        numbered, number = name, 1
        while taken.setdefault(numbered, what) != what:
            number += 1
            numbered = f"{name}_{number}"
        return numbered

    def renamed(column: Column) -> Column:
        of = tuple(renamed(part) for part in column.of)
        what = json.dumps([column.score, column.options, [part.name for part in of]], sort_keys=True)
        return replace(column, name=distinct(column.name, what), of=of)

    result = []
    for number, step in enumerate(steps):
        if step.method:
            name = distinct(step.name, f"step {number}")
            result.append(replace(step, name=name, of=tuple(renamed(part) for part in step.of)))
        else:
            assert step.column is not None
            column = renamed(step.column)
            result.append(replace(step, name=column.name, of=column.of))
    return result


def map_paths(values: Any, change: Callable[[str], str]) -> None:
    """Change in place every option that names a file, in a step's YAML mapping and in all columns it is made of."""
    if not isinstance(values, dict):
        return
    for option in PATH_OPTIONS:
        if isinstance(values.get(option), str):
            values[option] = change(values[option])
    of = values.get("of")
    for part in of if isinstance(of, list) else [of]:
        map_paths(part, change)


def _parse_method(where: str, values: dict[str, Any]) -> dict[str, Any]:
    method, name = values["method"], values.get("name", values["method"])
    if method not in METHODS:
        raise ClipsiftError(f"{where}: no method is named {method!r} (there are {', '.join(sorted(METHODS))})")
    if not isinstance(name, str) or not name:
        raise ClipsiftError(f"{where}: name is a word, got {name!r}")
    spec, of = METHODS[method], values.get("of")
    if spec.by_score != (of is not None):
        verb = "needs a" if spec.by_score else "takes no"
        raise ClipsiftError(f"{where}: {method} {verb} score to choose by (of: {{score: clip_score}})")
    options = infinity_as_word({key: value for key, value in values.items() if key not in _SETTINGS})
    try:
        spec.check(options)
    except ClipsiftError as error:
        raise ClipsiftError(f"{where}: {error}") from error
    column = () if of is None else (Column.parse(f"{where}.of", of),)
    return {"method": method, "name": name, "options": options, "of": column}
