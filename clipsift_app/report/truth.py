"""What is known to be wrong with each sample of a made or labelled pool, against what a run kept of it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_app.report.run_data import RunData, read_run
from clipsift_common.errors import ClipsiftError, first_line
from selection.uids import parse_uids, sort_key


class Truth:
    """The kind of each sample of a pool (``truth.parquet``: uid, kind): for judging a selection, not for making it."""

    def __init__(self, path: Path) -> None:
        try:
            table = pq.read_table(path, columns=["uid", "kind"])
        except (pa.ArrowException, OSError) as error:
            raise ClipsiftError(f"{path}: no parquet file with columns uid and kind ({first_line(error)})") from error
        if not table.num_rows:
            raise ClipsiftError(f"{path}: holds no rows")
        uids, kinds = parse_uids(table["uid"].to_pylist()), table["kind"].to_numpy()
        order = np.argsort(sort_key(uids))
        self.uids, self._kinds = uids[order], kinds[order]
        self._keys = sort_key(self.uids)
        names, counts = np.unique(self._kinds.astype(str), return_counts=True)
        self.counts: dict[str, int] = {str(names[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}

    def kinds_of(self, uids: np.ndarray) -> list[str | None]:
        """The kind of each of ``uids`` ((n,), any order), None where it is not known."""
        wanted = sort_key(uids)
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return [str(self._kinds[i]) if found else None for i, found in zip(at, self._keys[at] == wanted)]

    def shares(self, run: RunData) -> dict[str, float]:
        """Share of each kind that the run kept, in [0, 1]; kinds in order of their number.

        Empty when the run has no subset, or none of it is known here: it is of another pool.
        """
        kept = run.subset.multiplicity(self.uids) > 0 if run.subset is not None else np.zeros(1, bool)
        if not kept.any():
            return {}
        return {kind: float(kept[self._kinds == kind].mean()) for kind in self.counts}


@lru_cache(maxsize=16)
def open_truth(path: Path) -> Truth:
    """A truth file, read once however many runs share it."""
    return Truth(path)


def kind_shares(run: Path, truth: Path) -> dict[str, float]:
    """Share of each kind of sample in ``truth`` (a ``truth.parquet``) that is in the run's subset, in [0, 1].

    Raises:
        ClipsiftError: when the run has no subset or ``truth`` has not the columns uid and kind.
    """
    data = read_run(run)
    if data.subset is None:
        raise ClipsiftError(f"{run}: has no selection/subset.npy; run the selection first")
    return Truth(truth).shares(data)
