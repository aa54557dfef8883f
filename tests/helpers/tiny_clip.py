"""A CLIP that open_clip makes, small enough to train in a test."""

from __future__ import annotations

import json
from pathlib import Path

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
