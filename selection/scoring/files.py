"""Score columns on disk: a parquet per metadata file that says what it was made from and which rows have no score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import atomic_path
from selection.uids import parse_uids, uid_column

LostRows = dict[str, list[int]]  # row numbers by cause
OffUnit = tuple[int, str, int, int, float]  # file of the block, tower, first row, how many rows, the first's length

_PARENT = b"clipsift.parent"  # fingerprint of what the file was made from
_LOST_ROWS = b"clipsift.lost_rows"  # JSON: the rows that have no score, by cause
_OFF_UNIT = b"clipsift.off_unit"  # JSON: of a block, in its first file


def write_score_file(
    path: Path,
    columns: Mapping[str, np.ndarray],
    parent: str,
    lost: LostRows,
    uids: np.ndarray | None = None,
    off_unit: Sequence[OffUnit] = (),
) -> None:
    """Write (n,) float32 ``columns`` beside their ``uids`` (none in a file of the cache), atomically."""
    arrays = {} if uids is None else {"uid": uid_column(uids)}
    arrays |= {name: pa.array(scores, pa.float32()) for name, scores in columns.items()}
    about = {_PARENT: parent.encode(), _LOST_ROWS: json.dumps(lost).encode()}
    about |= {_OFF_UNIT: json.dumps(off_unit).encode()} if off_unit else {}
    table = pa.table(arrays).replace_schema_metadata(about)
    with atomic_path(path) as temporary:
        # hardly a value occurs twice
        pq.write_table(table, temporary, use_dictionary=False, write_page_checksum=True)


def lost_rows_of(path: Path, parent: str) -> LostRows | None:
    """The rows of a score file that have no score; None when there is no such file made from ``parent``."""
    if not path.is_file():
        return None
    try:
        about = pq.read_schema(path).metadata or {}
        return json.loads(about[_LOST_ROWS]) if about.get(_PARENT) == parent.encode() else None
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None  # it is made again


def off_unit_of(path: Path) -> list[OffUnit]:
    """What a whole score file says of rows of its block that are not of unit length."""
    return json.loads((pq.read_schema(path).metadata or {}).get(_OFF_UNIT, b"[]"))


class ScoreFile:
    """A score file (``uid`` and a float32 column per score) and which of its rows are still in: a bit per row."""

    def __init__(self, number: int, path: Path) -> None:
        """``number``: the file's place in the pool."""
        self.number, self.path = number, path
        try:
            self.num_rows = pq.read_metadata(path).num_rows
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(error) from error
        self.num_left = self.num_rows
        self._left = np.packbits(np.ones(self.num_rows, bool))
        self._added: dict[str, Path] = {}

    @property
    def left(self) -> np.ndarray:
        """(num_rows,) bool."""
        return np.unpackbits(self._left, count=self.num_rows).view(bool)

    def column(self, name: str) -> np.ndarray:
        """(num_left,) scores of the rows that are left: float32, or as given to :meth:`add_column`."""
        if name in self._added:
            scores = np.load(self._added[name], mmap_mode="r")
        elif self.num_left:
            scores = self.read(name).to_numpy()
        else:
            return np.empty(0, np.float32)
        return np.asarray(scores) if self.num_left == self.num_rows else scores[self.left]

    def add_column(self, name: str, scores: np.ndarray, folder: Path) -> None:
        """Have a column beside the file, in ``folder``, its own, until that is deleted: (num_left,) float64 scores."""
        column = np.full(self.num_rows, np.nan)
        column[self.left] = scores
        self._added[name] = folder / f"{self.number:06d}.npy"
        np.save(self._added[name], column)

    def uids(self, chosen: np.ndarray | None = None) -> np.ndarray:
        """(k,) uids of the rows that are left and ``chosen`` (num_left,) bool; by default all that are left."""
        wanted = self.left
        if chosen is not None:
            wanted[np.flatnonzero(wanted)[~chosen]] = False
        if not wanted.any():
            return parse_uids([])
        texts = self.read("uid")
        return parse_uids(texts if wanted.all() else texts.filter(pa.array(wanted)))

    def positions(self, chosen: np.ndarray) -> np.ndarray:
        """(k,) uint64 places in the pool of the rows that are left and ``chosen``."""
        return np.uint64(self.number << 32) + np.flatnonzero(self.left)[chosen].astype(np.uint64)

    def keep(self, chosen: np.ndarray) -> None:
        """Drop the rows that are not ``chosen`` (num_left,) bool."""
        left = self.left
        left[left] = chosen
        self._left, self.num_left = np.packbits(left), int(np.count_nonzero(chosen))

    def read(self, name: str) -> pa.ChunkedArray:
        """A column as it is in the file, all rows."""
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                return file.read([name]).column(name)
        except (pa.ArrowException, OSError, KeyError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ClipsiftError:
        return ClipsiftError(f"{self.path}: no whole score file ({first_line(error)}); delete it to have it made again")
