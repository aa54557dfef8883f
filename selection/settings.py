"""The settings of a selection, as they stand under ``selection:`` in a run's YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clipsift_common.errors import ClipsiftError
from selection.options import check_least
from selection.recipe.parsed import ParsedRecipe

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
"""A teacher's arithmetic, in Lightning's words: float32, or its products in 16 bits."""


@dataclass
class TeacherTraining:
    """How to train a teacher in place, on the trusted shards (what a data filtering network is)."""

    samples_seen: int
    global_batch: int
    lr: float = 5e-4
    warmup: int = 100
    weight_decay: float = 0.2

    def __post_init__(self) -> None:
        if self.samples_seen < self.global_batch or self.global_batch < 2:
            raise ClipsiftError(
                f"selection.teacher.train: samples_seen {self.samples_seen} and global_batch {self.global_batch} "
                "make no training; a batch holds at least 2 pairs and samples_seen at least one batch"
            )


@dataclass
class Teacher:
    """The CLIP whose features are scored: with ``pretrained`` weights (tag or file), or trained in place.

    ``model`` is an open_clip name, a JSON architecture, or the model folder of an earlier run.
    """

    model: str
    pretrained: str | None = None
    train: TeacherTraining | None = None

    def __post_init__(self) -> None:
        if self.pretrained and self.train:
            raise ClipsiftError("selection.teacher: pretrained and train contradict each other; keep one")
        if Path(self.model).is_dir() and (self.pretrained or self.train):
            raise ClipsiftError(
                f"selection.teacher: {self.model} has its own weights; set pretrained and train to null"
            )


@dataclass
class Embedding:
    """How features are made: pairs per batch, processes of a rank that decode, the teacher's arithmetic.

    ``workers`` by default: the cores of a rank where a GPU encodes, 2 beside a CPU. ``precision`` is ``32-true``,
    ``bf16-mixed`` or, on a GPU, ``16-mixed``; features are known by it, and those of two are never mixed.
    """

    batch_size: int = 256
    workers: int | None = None
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        check_least("selection.embedding.batch_size", self.batch_size, 1)
        check_least("selection.embedding.workers", self.workers, 0)


@dataclass
class Selection:
    """Which pairs to keep: where features come from, then the recipe (:class:`~selection.recipe.parsed.ParsedRecipe`).

    ``features`` names columns that the pool's metadata already has (``l14`` for ``l14_img`` and ``l14_txt``), or a
    layout: ``clip-retrieval``, or ``webdataset`` for members of tars; ``teacher`` makes them. A recipe whose scores
    need no features takes neither. ``per_file`` scores every metadata file alone, as the reference does; otherwise
    small files are scored together (``selection.scoring.make_blocks``).
    ``normalise`` brings features to unit length first; without it they are taken as they are, with a warning where a
    row is off by more than fp16 storage explains.
    """

    teacher: Teacher | None = None
    features: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    within: str | None = None
    union: list[str] = field(default_factory=list)
    intersect: list[str] = field(default_factory=list)
    subtract: list[str] = field(default_factory=list)
    per_file: bool = False
    normalise: bool = False
    embedding: Embedding = field(default_factory=Embedding)

    @classmethod
    def of(cls, recipe: ParsedRecipe, features: str | None) -> Selection:
        """The settings that give ``recipe`` on features which the metadata has."""
        steps = [step.as_yaml() for step in recipe.steps]
        sets = (list(recipe.union), list(recipe.intersect), list(recipe.subtract))
        return cls(None, features, steps, recipe.within, *sets)

    def check(self, trusted: str | None) -> ParsedRecipe:
        """The parsed recipe; everything wrong with the settings is a :class:`ClipsiftError`."""
        recipe = ParsedRecipe.parse(self.steps, self.within, self.union, self.intersect, self.subtract)
        if self.teacher and self.features:
            raise ClipsiftError("selection: teacher and features contradict each other; keep one")
        if recipe.needs_features and not (self.teacher or self.features):
            raise ClipsiftError(
                "selection: these scores need a teacher, such as {model: ViT-L-14, pretrained: openai}, or features "
                "that the metadata has, such as features: l14"
            )
        if self.teacher and not (self.teacher.pretrained or self.teacher.train or Path(self.teacher.model).is_dir()):
            raise ClipsiftError(
                f"selection.teacher: {self.teacher.model} has no weights; give pretrained (a tag or a file), or train"
            )
        if self.teacher and self.teacher.train and not trusted:
            raise ClipsiftError("selection.teacher.train: needs trusted shards; give --trusted DIR")
        if not trusted and "trusted" in recipe.targets:
            raise ClipsiftError("selection: the target trusted needs --trusted DIR")
        return recipe
