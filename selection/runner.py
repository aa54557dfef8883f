"""A recipe from Python, without a run's settings."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selection.pool.location import Pool
from selection.recipe.parsed import ParsedRecipe
from selection.selector import Selector
from selection.settings import Selection
from selection.subset import Subset


class Recipe:
    """Sequential steps, then set operations, as YAML has them (see :class:`selection.recipe.parsed.ParsedRecipe`)."""

    def __init__(
        self,
        steps: list[dict[str, Any]],
        within: str | None = None,
        union: list[str] | None = None,
        intersect: list[str] | None = None,
        subtract: list[str] | None = None,
    ) -> None:
        """Raise :class:`ClipsiftError` for all that can be seen without data: scores, options, fractions, files."""
        self.parsed = ParsedRecipe.parse(steps, within, union, intersect, subtract)

    @classmethod
    def parse(cls, steps: list[dict[str, Any]], *args: Any, **operations: Any) -> Recipe:
        """The same as the constructor."""
        return cls(steps, *args, **operations)

    def run(
        self, pool: Pool | str, features: str | None = None, out: str | Path | None = None, seed: int = 0
    ) -> Subset:
        """Score the pool's metadata and choose.

        Args:
            pool: where the metadata is.
            features: prefix of the feature arrays there (``l14``), when the steps look at features.
            out: keeps the score columns under ``out/selection``; without it they are dropped.
            seed: of random batches.
        """
        with TemporaryDirectory() as scratch:
            folder = Path(out or scratch)
            pool = pool if isinstance(pool, Pool) else Pool(pool)
            selection = Selection.of(self.parsed, features)
            return Subset.load(Selector(selection, pool, folder, folder / "cache", seed).run())
