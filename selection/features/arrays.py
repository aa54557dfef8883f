"""Features that are in memory, in place of a pool: for recipes in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import array_fingerprint, fingerprint
from selection.kernels.arrays import native, to_array
from selection.subset import Subset
from selection.uids import UID_DTYPE, parse_uids


class Arrays:
    """n pairs with what is known of them, as a recipe reads it from one metadata file.

    Args:
        image, text: (n, d) unit rows, arrays or tensors; what no step looks at may be left out.
        uids: (n,) hex strings or an array of uids; by default the row numbers.
        columns: metadata by name, (n,) each, such as ``text`` for captions.

    Raises:
        ClipsiftError: for parts of different lengths, or nothing to tell the length from.
    """

    def __init__(
        self,
        image: Any = None,
        text: Any = None,
        uids: Sequence[str] | np.ndarray | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = self.stem = "arrays"
        towers = {"image": image, "text": text}
        self._towers = {name: native(np.asarray(to_array(rows))) for name, rows in towers.items() if rows is not None}
        self._columns = {name: np.asarray(values) for name, values in (columns or {}).items()}
        lengths = {name: len(part) for name, part in (self._towers | self._columns).items()}
        lengths |= {} if uids is None else {"uids": len(uids)}
        if len(set(lengths.values())) != 1:
            raise ClipsiftError(f"arrays: rows differ, or there are none: {lengths}")
        self._length = next(iter(lengths.values()))
        self._uids = _row_numbers(self._length) if uids is None else _as_uids(uids)

    def __len__(self) -> int:
        return self._length

    def rows(self, subset: Subset) -> np.ndarray:
        """(k,) int64 ascending: the rows that are in ``subset``, each as often as its uid is."""
        return np.repeat(np.arange(len(self)), subset.multiplicity(self._uids))

    def num_rows(self) -> int:
        return self._length

    def fingerprint(self) -> str:
        towers = [[name, array_fingerprint(rows)] for name, rows in sorted(self._towers.items())]
        columns = [[name, fingerprint(values.tolist())] for name, values in sorted(self._columns.items())]
        return fingerprint([array_fingerprint(self._uids), towers, columns])

    def uids(self) -> np.ndarray:
        return self._uids

    def column_names(self) -> list[str]:
        return list(self._columns)

    def column(self, name: str) -> np.ndarray:
        if name not in self._columns:
            raise ClipsiftError(f"arrays: there is no column {name} (there are: {', '.join(self._columns) or 'none'})")
        return self._columns[name]

    def image(self) -> np.ndarray:
        return self._tower("image")

    def text(self) -> np.ndarray:
        return self._tower("text")

    def _tower(self, name: str) -> np.ndarray:
        if name not in self._towers:
            raise ClipsiftError(f"arrays: a step looks at {name} features, and none were given")
        rows = self._towers[name]
        if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating):
            raise ClipsiftError(f"arrays: {name} is {rows.ndim}-D {rows.dtype}, not a 2-D array of floats")
        return rows


def _row_numbers(count: int) -> np.ndarray:
    uids = np.zeros(count, UID_DTYPE)
    uids["f1"] = np.arange(count)
    return uids


def _as_uids(uids: Sequence[str] | np.ndarray) -> np.ndarray:
    if isinstance(uids, np.ndarray) and uids.dtype == UID_DTYPE:
        return uids
    return parse_uids(uids if isinstance(uids, pa.Array | pa.ChunkedArray) else list(uids))
