"""What a score column is: a score of the features with its options, or a combination of such columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipsift_common.errors import ClipsiftError
from selection.options import infinity_as_word
from selection.registry import FeatureBlock
from selection.scores import SCORES
from selection.scoring.combine import COMBINATIONS, check_combination

TARGET_OPTIONS = ("target", "target_text", "classes", "centroids")  # options of scores and methods that name features


@dataclass(frozen=True)
class Column:
    """A score column: a score of the features or, with ``of``, a combination of such columns."""

    name: str
    score: str
    options: dict[str, Any] = field(default_factory=dict)
    of: tuple[Column, ...] = ()

    @classmethod
    def parse(cls, where: str, values: Any) -> Column:
        """A column from its YAML mapping ``{score: ..., option: ...}``."""
        if not isinstance(values, dict) or not isinstance(values.get("score"), str):
            raise ClipsiftError(f"{where}: a score is a mapping such as {{score: clip_score}}, got {values!r}")
        score, name = values["score"], values.get("name", values["score"])
        if score not in SCORES and score not in COMBINATIONS:
            raise ClipsiftError(f"{where}: no score is named {score!r} (there are {', '.join(_scores())})")
        if not isinstance(name, str) or not name or name == "uid":
            raise ClipsiftError(f"{where}: name is a word other than uid, got {name!r}")
        options = infinity_as_word({key: values[key] for key in values if key not in ("score", "name", "of")})
        of = values.get("of", [])
        if score in SCORES and of:
            raise ClipsiftError(f"{where}: of goes with {', '.join(COMBINATIONS)}, not with {score}")
        if not isinstance(of, list):
            raise ClipsiftError(f"{where}: of is a list of scores, got {of!r}")
        try:
            if score in SCORES:
                SCORES[score].check(options)
            else:
                check_combination(score, len(of), options)
        except ClipsiftError as error:
            raise ClipsiftError(f"{where}: {error}") from error
        return cls(name, score, options, tuple(cls.parse(f"{where}.of[{i}]", part) for i, part in enumerate(of)))

    @property
    def targets(self) -> list[str]:
        """The target sets that the score compares with."""
        return named_targets(self.options)

    @property
    def needs(self) -> frozenset[str]:
        """Which of image and text features the score looks at; of a combination, any of its parts."""
        return frozenset(tower for leaf in self.leaves() for tower in SCORES[leaf.score].needs)

    def leaves(self) -> Iterator[Column]:
        """The columns that are scores of the features, itself if it is one."""
        if not self.of:
            yield self
        for part in self.of:
            yield from part.leaves()

    def values(self, leaf: Callable[[Column], np.ndarray]) -> np.ndarray:
        """(n,) scores, of a combination those of its parts put together; ``leaf`` gives those of a score."""
        if not self.of:
            return leaf(self)
        return COMBINATIONS[self.score]([part.values(leaf) for part in self.of], **self.options)

    def values_of(self, block: FeatureBlock) -> np.ndarray:
        """(n,) scores of the samples of ``block``, which are also the pool that a combination compares."""
        return self.values(lambda leaf: SCORES[leaf.score](block, **leaf.options).cpu().numpy())

    def as_yaml(self) -> dict[str, Any]:
        """The mapping that it is parsed from."""
        of = {"of": [part.as_yaml() for part in self.of]} if self.of else {}
        return {"score": self.score, "name": self.name} | of | self.options


def by_content(values: Any, contents: Mapping[str, str]) -> Any:
    """``values`` with every word that names something in ``contents`` replaced by the fingerprint there."""
    if isinstance(values, Mapping):
        return {key: by_content(value, contents) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [by_content(value, contents) for value in values]
    return contents.get(values, values) if isinstance(values, str) else values


def named_targets(options: dict[str, Any]) -> list[str]:
    """The target sets that a score's or method's options name."""
    return [options[option] for option in TARGET_OPTIONS if isinstance(options.get(option), str)]


def _scores() -> list[str]:
    return sorted({*SCORES, *COMBINATIONS})
