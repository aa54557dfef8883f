"""A finished run as an open_clip model folder, and the note that says it is finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from common.clip import CONFIG_NAME, WEIGHTS_NAME, model_config
from common.files import atomic_path, write_json

_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")  # what open_clip writes for the hub


def export_model(clip: torch.nn.Module, model: str, folder: Path) -> None:
    """Write weights and architecture so that open_clip loads them as ``local-dir:<folder>``.

    Args:
        clip: the trained open_clip model.
        model: its architecture's name or JSON file.
        folder: where to; the config, without which the folder is no model, is written last.
    """
    # Cloned: safetensors refuses tensors that share memory.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in clip.state_dict().items()}
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})
    preprocess: dict[str, Any] = clip.visual.preprocess_cfg  # type: ignore[union-attr, assignment]
    config = {"model_cfg": model_config(model), "preprocess_cfg": {name: preprocess[name] for name in _PREPROCESS_KEYS}}
    write_json(folder / CONFIG_NAME, config)
