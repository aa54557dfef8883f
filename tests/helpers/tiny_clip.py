"""A CLIP that open_clip makes, small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from clipsift_common.clip import LoadedCLIP, create_clip, evaluation_transform, get_tokenizer, wrap_clip

ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2},
}


def write_architecture(folder: Path) -> Path:
    """``tiny.json`` in ``folder``."""
    path = folder / "tiny.json"
    path.write_text(json.dumps(ARCHITECTURE))
    return path


def wrapped_clip(folder: Path) -> LoadedCLIP:
    """The tiny CLIP with weights of seed 0, known by them."""
    model = str(write_architecture(folder))
    return wrap_clip(_seeded(model), tokenizer=get_tokenizer(model))


def named_clip(model: str) -> LoadedCLIP:
    """A CLIP of an architecture with weights of seed 0, whose fingerprint is "tiny"."""
    clip = _seeded(model).eval()
    return LoadedCLIP(clip, evaluation_transform(clip), get_tokenizer(model), "tiny")


def _seeded(model: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_clip(model)
