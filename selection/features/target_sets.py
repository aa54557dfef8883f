"""Targets made of many evaluation sets' train images: which they are, and their features, one file for each set."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml

from clipsift_common.clip import LoadedCLIP
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path, read_json, write_json
from clipsift_common.progress import track
from selection.features.embed import embed_images
from selection.features.target import NOTE_NAME, pictures


@cache
def target_sets() -> dict[str, list[str]]:
    """The sets of each named target, by the keys of the evaluation's tasks (``selection/target_sets.yaml``)."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def embed_target(name: str, data: Path, clip: LoadedCLIP, out: Path, device: torch.device) -> list[Path]:
    """Write ``out/<set>.npy``, (images, d) fp16 unit features, for every set of a named target; returns the files.

    The set ``vtab/dtd`` is in ``data/wds_vtab-dtd`` or ``data/wds_vtab-dtd_train``: shards, pictures, or either of them
    in a folder ``train`` there. ``out`` is then a target for recipes. Files that are there are kept, so a stopped call
    goes on.

    Raises:
        ClipsiftError: for an unknown name, sets without a folder (all are named, before anything is computed), a set
            without a picture that can be read, or an ``out`` with another teacher's features.
    """
    if name not in target_sets():
        raise ClipsiftError(f"target: no set of targets is named {name} (there are {', '.join(target_sets())})")
    folders = {key: _train_folder(data, key) for key in target_sets()[name]}
    missing = [_folder_name(key) for key, folder in folders.items() if folder is None]
    if missing:
        raise ClipsiftError(f"target: {data} has no train images of {', '.join(missing)}")
    files = [out / f"{_folder_name(key)}.npy" for key in folders]
    note = {"target": name, "teacher": clip.fingerprint, "files": [file.name for file in files]}
    if (out / NOTE_NAME).is_file() and read_json(out / NOTE_NAME) != note:
        raise ClipsiftError(f"target: {out} holds features of another teacher or target; use another --out")
    write_json(out / NOTE_NAME, note)
    for file, (key, folder) in zip(files, folders.items()):
        assert folder is not None
        if not file.is_file():
            features = embed_images(clip, track(pictures(folder), f"embed {key}", unit="images"), device)
            if not len(features):
                raise ClipsiftError(f"target: {folder} has no picture that can be read")
            with atomic_path(file) as temporary, open(temporary, "wb") as handle:
                np.save(handle, features.astype(np.float16), allow_pickle=False)
    return files


def _folder_name(key: str) -> str:
    return f"wds_{key.replace('/', '-')}"


def _train_folder(data: Path, key: str) -> Path | None:
    """Where a set's train images are; never its test images, which lie in ``test``."""
    for folder in (data / _folder_name(key), data / f"{_folder_name(key)}_train"):
        if (folder / "train").is_dir():
            return folder / "train"
        if folder.is_dir() and not (folder / "test").is_dir():
            return folder
    return None
