"""Targets made of evaluation sets' train images: which they are, and their features."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from clipsift_common.clip import LoadedCLIP
from clipsift_common.distributed import barrier, on_rank_zero, rank, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json, write_json
from clipsift_common.images import DECODING
from clipsift_common.progress import track
from selection.features.embed import embed_images
from selection.features.target import NOTE_NAME, pictures, write_features


@cache
def target_sets() -> dict[str, list[str]]:
    """The sets of each named target, by the keys of the evaluation's tasks (``selection/target_sets.yaml``)."""
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def embed_target(name: str, data: Path, clip: LoadedCLIP, out: Path, device: torch.device) -> list[Path]:
    """Write the (images, d) fp16 unit features of a named target's sets; returns the files. A collective call.

    The set ``vtab/dtd`` is in ``data/wds_vtab-dtd`` or ``data/wds_vtab-dtd_train``: shards, pictures, or either of them
    in a folder ``train`` there. ``out`` is then a target for recipes: one file if it ends in ``.npy``, else a folder
    with a file for each set. Sets are split over ranks; those that are done are kept, so a stopped call resumes.

    Raises:
        ClipsiftError: for an unknown name, sets without a folder (all are named, before anything is computed), a set
            without a picture that can be read, or an ``out`` with another teacher's features.
    """
    if name not in target_sets():
        raise ClipsiftError(f"target: no set of targets is named {name} (there are {', '.join(target_sets())})")
    folders = on_rank_zero(lambda: _train_folders(data, target_sets()[name]))
    is_file = out.suffix == ".npy"
    parts = out.with_suffix(".parts") if is_file else out
    files = [parts / f"{_folder_name(key)}.npy" for key in folders]
    note: dict[str, Any] = {"target": name, "teacher": clip.fingerprint, "files": [file.name for file in files]}
    note["decoding"] = DECODING
    place = out.with_suffix(".json") if is_file else out / NOTE_NAME
    on_rank_zero(lambda: _claim(out, place, note))
    if is_file and on_rank_zero(out.is_file):
        return [out]
    for file, (key, folder) in list(zip(files, folders.items()))[rank() :: world_size()]:
        if not file.is_file():
            features = embed_images(clip, track(pictures(folder), f"embed {key}", unit="images"), device)
            if not len(features):
                raise ClipsiftError(f"target: {folder} has no picture that can be read")
            write_features(file, features.astype(np.float16))
    barrier()
    if not is_file:
        return files
    on_rank_zero(lambda: _join(files, out))
    return [out]


def _join(files: Sequence[Path], out: Path) -> None:
    write_features(out, np.concatenate([np.load(file, allow_pickle=False) for file in files]))
    shutil.rmtree(files[0].parent)


def _claim(out: Path, place: Path, note: dict[str, Any]) -> None:
    """Make ``out`` the place of these features, or see that it is."""
    if place.is_file() and read_json(place) != note:
        raise ClipsiftError(f"target: {out} holds features of another teacher, target or release; use another --out")
    write_json(place, note)


def _folder_name(key: str) -> str:
    return f"wds_{key.replace('/', '-')}"


def _train_folders(data: Path, keys: Sequence[str]) -> dict[str, Path]:
    folders = {key: folder for key in keys if (folder := _train_folder(data, key))}
    missing = [_folder_name(key) for key in keys if key not in folders]
    if missing:
        raise ClipsiftError(f"target: {data} has no train images of {', '.join(missing)}")
    return folders


def _train_folder(data: Path, key: str) -> Path | None:
    """Where a set's train images are; never its test images, which lie in ``test``."""
    for folder in (data / _folder_name(key), data / f"{_folder_name(key)}_train"):
        if (folder / "train").is_dir():
            return folder / "train"
        if folder.is_dir() and not (folder / "test").is_dir():
            return folder
    return None
