"""What a run has trained is what is evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipsift_app.stages import load_result
from clipsift_common.clip import create_clip, load_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import write_json
from helpers.tiny_clip import write_architecture
from training.export import export_model


def test_weights_other_than_those_that_were_written_are_refused(tmp_path: Path) -> None:
    model = str(write_architecture(tmp_path))
    clip, folder = create_clip(model), tmp_path / "run/training/model"
    export_model(clip, model, folder, clip.state_dict())
    weights = load_clip(str(folder), None).fingerprint
    write_json(tmp_path / "run/training/training.json", {"weights": weights})
    for name, value in load_result(tmp_path / "run").model.state_dict().items():
        assert torch.equal(value, clip.state_dict()[name])
    content = bytearray((folder / "open_clip_model.safetensors").read_bytes())
    content[-100] ^= 1
    (folder / "open_clip_model.safetensors").write_bytes(content)
    with pytest.raises(ClipsiftError, match=r"training/model: its weights are not those .*clipsift fit .*again"):
        load_result(tmp_path / "run")
    with pytest.raises(ClipsiftError, match=r"nowhere/training/model: does not exist"):
        load_result(tmp_path / "nowhere")
