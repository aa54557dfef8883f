"""Features on disk in DataComp's metadata layout: ``<stem>.parquet`` beside ``<stem>.npz``, row i = row i."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import atomic_path, fingerprint
from selection.features.clip_retrieval import CLIP_RETRIEVAL, array_path, mark, read_npy
from selection.features.npz import checksums, read_array
from selection.kernels.arrays import native
from selection.kernels.tiles import ROW_TILE, tiles
from selection.pool.suffixes import without_suffix
from selection.uids import parse_uids, uid_column

_TOWERS = ("img", "txt")
NORM_TOLERANCE = 0.01  # fp16 storage moves the norm of a unit vector by up to 2.5e-4


class FeatureRows(Protocol):
    """n pairs that are scored in one go: a :class:`FeatureFile`, or :class:`selection.features.arrays.Arrays`."""

    @property
    def path(self) -> str:
        """What errors call them."""

    @property
    def stem(self) -> str:
        """Their name in the pool; also what their random numbers are seeded with."""

    def num_rows(self) -> int:
        """n."""

    def fingerprint(self) -> str:
        """Hash that changes with the content."""

    def uids(self) -> np.ndarray:
        """(n,) uids of the rows."""

    def column_names(self) -> list[str]:
        """The metadata columns there are."""

    def column(self, name: str) -> np.ndarray:
        """(n,) values of one metadata column."""

    def image(self) -> np.ndarray:
        """(n, d) image features."""

    def text(self) -> np.ndarray:
        """(n, d) text features."""


@dataclass(frozen=True)
class FeatureFile:
    """One metadata file.

    Attributes:
        path: the parquet.
        name: prefix of the feature columns: ``l14`` for ``l14_img`` and ``l14_txt``; ``clip-retrieval`` for the two
            files of that program's output; None when none are needed.
        called: its name in the pool, where that is not its stem.
    """

    path: str
    name: str | None = None
    called: str | None = None

    @property
    def stem(self) -> str:
        return self.called or without_suffix(self.path.rsplit("/", 1)[-1])

    @property
    def npz(self) -> str:
        return without_suffix(self.path) + ".npz"

    @property
    def feature_files(self) -> list[str]:
        """Where its features lie: one npz, or a file for each tower."""
        if self.name == CLIP_RETRIEVAL:
            return [array_path(self.path, tower) for tower in _TOWERS]
        return [self.npz]

    @cached_property
    def _num_rows(self) -> int:
        return int(self._parquet().metadata.num_rows)

    def num_rows(self) -> int:
        """Rows of the parquet, from its footer."""
        return self._num_rows

    def fingerprint(self) -> str:
        """Hash that changes with the content: of the parquet's footer (sizes and statistics of its columns) and the
        checksums of the feature arrays, which are not read."""
        footer = self._parquet().metadata.to_dict()
        return fingerprint([self.stem, footer, self.array_marks() if self.name else []])

    def array_marks(self) -> list[tuple[int | str, int]]:
        """For each tower what changes with its features, as far as it is known unread, and their bytes."""
        if self.name == CLIP_RETRIEVAL:
            return [mark(path) for path in self.feature_files]
        return [*checksums(self.npz, [f"{self.name}_{tower}" for tower in _TOWERS])]

    def local_files(self) -> list[str]:
        """The files on this machine whose content :meth:`fingerprint` does not cover."""
        files = [self.path, *(self.feature_files if self.name == CLIP_RETRIEVAL else [])]
        return [path for path in files if Path(path).is_file()]

    def uids(self) -> np.ndarray:
        """(n,) uids of the rows."""
        try:
            return parse_uids(self._column("uid"))
        except ClipsiftError as error:
            raise ClipsiftError(f"{self.path}: {error}") from error

    def column_names(self) -> list[str]:
        """The parquet's columns."""
        return list(self._parquet().schema_arrow.names)

    def column(self, name: str) -> np.ndarray:
        """(n,) values of one parquet column."""
        return self._column(name).to_numpy(zero_copy_only=False)

    def _column(self, name: str) -> pa.ChunkedArray:
        parquet = self._parquet()
        names = parquet.schema_arrow.names
        if names.count(name) != 1:
            many = "no column" if name not in names else f"{names.count(name)} columns named"
            raise ClipsiftError(f"{self.path}: has {many} {name} (it has {', '.join(names)}); make it have one")
        try:
            return parquet.read([name]).column(0)
        except (OSError, pa.ArrowException) as error:
            raise ClipsiftError(f"{self.path}: column {name} is damaged ({first_line(error)}); get it again") from error

    def image(self) -> np.ndarray:
        """(n, d) image features in the dtype of the file (fp16 in DataComp's)."""
        return self._array("img")

    def text(self) -> np.ndarray:
        """(n, d) text features."""
        return self._array("txt")

    def _parquet(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(fsspec.open(self.path, "rb").open(), page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise ClipsiftError(f"{self.path}: is no parquet file ({first_line(error)}); get it again") from error

    def _array(self, tower: str) -> np.ndarray:
        if self.name == CLIP_RETRIEVAL:
            path, key = array_path(self.path, tower), "its array"
            values = native(read_npy(path))
        else:
            path, key = self.npz, f"{self.name}_{tower}"
            values = native(read_array(path, key))
        if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
            raise ClipsiftError(
                f"{path}: {key} is {values.ndim}-D {values.dtype}, not a 2-D array of floats; make it again"
            )
        if len(values) != self.num_rows():
            raise ClipsiftError(f"{path}: {key} has {len(values)} rows, its parquet {self.num_rows()}; get both again")
        return values


def row_norms(features: np.ndarray) -> np.ndarray:
    """(n,) float32 lengths of the rows."""
    norms = np.empty(len(features), np.float32)
    for rows in tiles(len(features), ROW_TILE):  # a file of half a million rows is never held in float32
        norms[rows] = np.linalg.norm(features[rows].astype(np.float32), axis=1)
    return norms


def bad_norms(norms: np.ndarray) -> np.ndarray:
    """(n,) bool: rows that no cosine can be computed from (NaN, infinite or all zero), by their lengths."""
    return ~np.isfinite(norms) | (norms == 0)


def bad_rows(features: np.ndarray) -> np.ndarray:
    """(n,) bool: rows that no cosine can be computed from (NaN, infinite or all zero)."""
    return bad_norms(row_norms(features))


def off_unit(norms: np.ndarray) -> np.ndarray:
    """(n,) bool: usable rows that are not of unit length, so that an inner product is no cosine."""
    return ~bad_norms(norms) & (np.abs(norms - 1) > NORM_TOLERANCE)


def normalised(features: np.ndarray) -> np.ndarray:
    """Unit rows in the dtype of ``features`` (n, d), divided in float32; bad rows become NaN."""
    rows = features.astype(np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(features.dtype)


def copy_rows(source: np.ndarray, chosen: np.ndarray, target: np.ndarray, normalise: bool = False) -> None:
    """Write the ``chosen`` (n,) rows of ``source``, in order, to the beginning of ``target``; the two may be one."""
    start = 0
    for rows in tiles(len(source), ROW_TILE):
        part = source[rows][chosen[rows]]
        target[start : start + len(part)] = normalised(part) if normalise else part
        start += len(part)


def write_feature_file(
    folder: Path, name: str, stem: str, uids: np.ndarray, captions: list[str], image: np.ndarray, text: np.ndarray
) -> None:
    """Write one parquet + npz pair, features as fp16; see :func:`write_arrays`.

    Args:
        image, text: (n, d) float arrays, L2-normalised.
    """
    arrays = {f"{name}_img": image.astype(np.float16), f"{name}_txt": text.astype(np.float16)}
    write_arrays(folder, stem, uids, captions, arrays)


def write_arrays(folder: Path, stem: str, uids: np.ndarray, captions: list[str], arrays: dict[str, np.ndarray]) -> None:
    """Write one parquet + npz pair, arrays as they are; the parquet comes last, so that its presence means both."""
    with atomic_path(folder / f"{stem}.npz") as temporary, open(temporary, "wb") as handle:
        savez: Any = np.savez
        savez(handle, **arrays)
    table = pa.table({"uid": uid_column(uids), "text": pa.array(captions, pa.string())})
    with atomic_path(folder / f"{stem}.parquet") as temporary:
        pq.write_table(table, temporary, write_page_checksum=True)
