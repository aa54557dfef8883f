"""Text features of a task's classes, without its pictures: what a zero-shot classifier is made of."""

from __future__ import annotations

import torch

from clipsift_common.clip import LoadedCLIP
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from evaluation.data.prompts import CLASSNAMES, TEMPLATES, packaged_lines
from evaluation.encoder import Encoder
from evaluation.tasks import TASKS


@torch.inference_mode()
def class_prompt_features(key: str, clip: LoadedCLIP, device: torch.device) -> torch.Tensor:
    """(c, d) float32 unit features of a task's classes under its templates; a collective call.

    Class names and templates are clip_benchmark's; prompts are normalised, averaged over the templates, normalised.

    Raises:
        ClipsiftError: for a task that is unknown or has no class names.
    """
    if key not in TASKS:
        raise ClipsiftError(f"target: no evaluation task has the key {key}")
    names, templates = on_rank_zero(lambda: [packaged_lines(TASKS[key], file) for file in (CLASSNAMES, TEMPLATES)])
    if not names or not templates:
        raise ClipsiftError(f"target: {key} has no class names, or no templates, of its own")
    clip.model.to(device)
    return Encoder(clip, "fp32").class_features(names, templates)
