"""Features as clip-retrieval's inference leaves them: a ``.npy`` for each tower beside a parquet of metadata.

``img_emb/img_emb_0.npy``, ``text_emb/text_emb_0.npy`` and ``metadata/metadata_0.parquet`` in one folder, row i = row i.
"""

from __future__ import annotations

import re
from pathlib import Path

import fsspec
import numpy as np

from clipsift_common.errors import ClipsiftError, first_line
from selection.features.npz import MAPPED_FROM
from selection.pool.remote import is_remote, stamp

CLIP_RETRIEVAL = "clip-retrieval"  # what ``selection.features`` calls them
_METADATA = re.compile(r"(.*/)?metadata/metadata_(\d+)\.parquet")
_FOLDERS = {"img": "img_emb", "txt": "text_emb"}


def array_path(parquet: str, tower: str) -> str:
    """Where the features of a tower (``img``, ``txt``) lie, by the place of their metadata.

    Raises:
        ClipsiftError: when the metadata are not called as clip-retrieval calls them.
    """
    match = _METADATA.fullmatch(parquet)
    if match is None:
        expected = "metadata/metadata_0.parquet beside img_emb/img_emb_0.npy and text_emb/text_emb_0.npy"
        raise ClipsiftError(f"{parquet}: is not of clip-retrieval's output ({expected}); set selection.features")
    root, number = match[1] or "", match[2]
    return f"{root}{_FOLDERS[tower]}/{_FOLDERS[tower]}_{number}.npy"


def mark(path: str) -> tuple[str, int]:
    """What its server says that changes with a ``.npy``, "" for a local one; and its bytes."""
    size, mark = stamp(path)
    return str(mark) if is_remote(path) else "", int(size)


def read_npy(path: str) -> np.ndarray:
    """The array of a ``.npy``; a large one in a local file is mapped, copy-on-write. Nothing is unpickled.

    Raises:
        ClipsiftError: for what is not there, or is no such file.
    """
    try:
        if not is_remote(path) and Path(path).stat().st_size >= MAPPED_FROM:
            return np.lib.format.open_memmap(path, mode="c")
        with fsspec.open(path, "rb") as handle:
            return np.lib.format.read_array(handle, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ClipsiftError(f"{path}: features cannot be read ({first_line(error)})") from error
