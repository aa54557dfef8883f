"""A finished run as an open_clip model folder, and the note that says it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from clipsift_common.clip import CONFIG_NAME, WEIGHTS_NAME, model_config
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path, write_json

TORCH_WEIGHTS_NAME = "open_clip_model.pt"
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")  # what open_clip writes for the hub


def export_model(clip: torch.nn.Module, model: str, folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write weights and architecture so that open_clip loads them as ``local-dir:<folder>``.

    The weights are written twice, as ``.safetensors`` and, for programs that cannot read those, as a ``.pt`` file of
    the bare state (``open_clip.create_model(MODEL, pretrained=FILE)`` takes either).

    Args:
        clip: the trained open_clip model.
        model: its architecture's name or JSON file.
        folder: where to; the config, without which the folder is no model, is written last.
        state: its state with whole tensors (:func:`training.fsdp.full_state`).

    Raises:
        ClipsiftError: for weights that are not finite; nothing is written.
    """
    if spoilt := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise ClipsiftError(
            f"{folder}: not exported, {len(spoilt)} of {len(state)} weights hold values that are not finite (first: "
            f"{', '.join(spoilt[:3])}); training has diverged: lower model.lr or raise model.warmup, with another out"
        )
    # Cloned: safetensors refuses tensors that share memory.
    tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    with atomic_path(folder / TORCH_WEIGHTS_NAME) as temporary:
        torch.save(tensors, temporary)
    preprocess: dict[str, Any] = clip.visual.preprocess_cfg  # type: ignore[union-attr, assignment]
    architecture = model_config(model)
    if (bias := getattr(clip, "logit_bias", None)) is not None:  # else open_clip makes a model without one
        architecture["init_logit_bias"] = bias.item()
    config = {"model_cfg": architecture, "preprocess_cfg": {name: preprocess[name] for name in _PREPROCESS_KEYS}}
    write_json(folder / CONFIG_NAME, config)
