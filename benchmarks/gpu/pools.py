"""Pools and models for the parts: JPEGs that are made here, and CLIPs with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.loader_data import made_up_picture, write_shards
from benchmarks.train import ARCHITECTURES
from clipsift_common.clip import LoadedCLIP, create_clip, load_clip

PICTURES = 500  # different ones; a pool repeats them under uids of its own


def make_pool(folder: Path, samples: int) -> Path:
    """``folder``: a pool of so many pairs, left alone when it is there."""
    if not folder.is_dir():
        pictures = [made_up_picture(number) for number in range(min(samples, PICTURES))]
        part = folder.with_name(f"{folder.name}.part")
        write_shards(part, samples, lambda number: pictures[number % len(pictures)])
        part.rename(folder)
    return folder


def architecture(name: str, folder: Path) -> str:
    """open_clip's name, or the JSON file of one of the small architectures."""
    if name not in ARCHITECTURES:
        return name
    path = folder / f"{name}.json"
    path.write_text(json.dumps(ARCHITECTURES[name]))
    return str(path)


def random_clip(name: str, folder: Path) -> LoadedCLIP:
    """A CLIP with random weights, loaded from a file of them as any teacher is."""
    model = architecture(name, folder)
    path = folder / f"{name}.pt"
    if not path.is_file():
        torch.manual_seed(0)
        torch.save(create_clip(model).state_dict(), path)
    return load_clip(model, str(path))
