"""A recipe from Python, without a run's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from selection.features.arrays import Arrays
from selection.kernels.arrays import to_tensor
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
        self.parsed.check_subsets()

    def run(
        self,
        pool: Pool | Arrays | str,
        features: str | None = None,
        out: str | Path | None = None,
        seed: int = 0,
        targets: Mapping[str, Any] | None = None,
    ) -> Subset:
        """Score the pool and choose.

        Args:
            pool: where the metadata is, or :class:`~selection.features.arrays.Arrays` in memory, which give what the
                same rows in a metadata file named ``arrays`` would.
            features: prefix of the feature arrays in the metadata (``l14``), when the steps look at features.
            out: keeps the score columns under ``out/selection``; without it they are dropped.
            seed: of random batches.
            targets: (t, d) features, arrays or tensors, by the names that steps call them; a target that is not here
                is a file or folder.

        Raises:
            ClipsiftError: for features or targets that cannot be used, or when nothing is left.
        """
        if isinstance(pool, Arrays):
            features = "arrays"
        elif not isinstance(pool, Pool):
            pool = Pool.shared(pool)
        with TemporaryDirectory() as scratch:
            folder = Path(out or scratch)
            selection = Selection.of(self.parsed, features)
            selector = Selector(selection, pool, folder, folder / "cache", seed)
            selector.targets = {name: to_tensor(np.asarray(rows)) for name, rows in (targets or {}).items()}
            return Subset(np.array(Subset.load(selector.run()).uids))
