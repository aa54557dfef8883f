"""Damaged checkpoints and model folders: the weights that were written, or one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clipsift_common.clip import create_clip, load_clip
from helpers.mutations import NUM_WAYS, mutate, outcome, strangers
from helpers.tiny_clip import ARCHITECTURE, write_architecture
from training.checkpoints import check_settings, stamp_settings
from training.export import export_model

pytestmark = pytest.mark.slow

State = dict[str, torch.Tensor]

SMALL = ARCHITECTURE | {"text_cfg": {**ARCHITECTURE["text_cfg"], "vocab_size": 600}}
# Without a checksum of the tensors: what is flipped in them is another weight.
WITHOUT_CHECKSUM = ("old.pt", "w.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An architecture of few bytes, and its weights in every form; ``run`` is an exported model folder."""
    folder = tmp_path_factory.mktemp("whole")
    write_architecture(folder).write_text(json.dumps(SMALL))
    torch.manual_seed(0)
    clip = create_clip(str(folder / "tiny.json"))
    state = {name: value.clone() for name, value in clip.state_dict().items()}
    forms: dict[str, Callable[[Path], None]] = {
        "w.pt": lambda path: torch.save(state, path),
        "w.bin": lambda path: torch.save({"state_dict": state, "epoch": 1}, path),
        "old.pt": lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
        "w.safetensors": lambda path: save_file(state, path),
    }
    for name, save in forms.items():
        save(folder / name)
    export_model(clip, str(folder / "tiny.json"), folder / "run", state)
    return folder


def _state(model: str, pretrained: str | None) -> State:
    return dict(load_clip(model, pretrained).model.state_dict())


def _same(found: State, written: State) -> bool:
    return found.keys() == written.keys() and all(torch.equal(found[name], written[name]) for name in written)


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("name", ["w.pt", "w.bin", "old.pt", "w.safetensors"])
def test_checkpoints(folder: Path, tmp_path: Path, name: str, seed: int) -> None:
    model, path = str(folder / "tiny.json"), tmp_path / name
    mutation = mutate((folder / name).read_bytes(), seed)
    path.write_bytes(mutation.data)
    found = outcome(lambda: _state(model, str(path)), path)
    if found is not None and not _same(found, _state(model, str(folder / name))):
        assert name in WITHOUT_CHECKSUM, f"{mutation.what}: other weights"


@pytest.mark.parametrize("name", ["w.pt", "w.bin", "w.ckpt", "w.safetensors"])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_a_checkpoint(folder: Path, tmp_path: Path, mark: Path, name: str, stranger: str) -> None:
    (tmp_path / name).write_bytes(strangers(mark)[stranger])
    model = str(folder / "tiny.json")
    assert outcome(lambda: load_clip(model, str(tmp_path / name)), tmp_path / name) is None


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("name", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_model_folders(folder: Path, tmp_path: Path, name: str, seed: int) -> None:
    """A number in the config may be another one, a weight too; then the identity is another as well."""
    shutil.copytree(folder / "run", tmp_path / "run")
    path = tmp_path / "run" / name
    mutation = mutate(path.read_bytes(), seed, block=16)
    path.write_bytes(mutation.data)
    found = outcome(lambda: load_clip(str(tmp_path / "run"), None), tmp_path / "run")
    whole = load_clip(str(folder / "run"), None)
    if found is not None and mutation.data != (folder / "run" / name).read_bytes():
        assert found.identity != whole.identity or _equal_json(path, folder / "run" / name), mutation.what


def _equal_json(path: Path, other: Path) -> bool:
    """But for blanks and the like."""
    return path.suffix == ".json" and json.loads(path.read_bytes()) == json.loads(other.read_bytes())


@pytest.mark.parametrize("part", ["open_clip_config.json", "open_clip_model.safetensors"])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_a_model_folder(folder: Path, tmp_path: Path, mark: Path, part: str, stranger: str) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / part).write_bytes(strangers(mark)[stranger])
    assert outcome(lambda: load_clip(str(tmp_path / "run"), None), tmp_path / "run") is None


CONFIGS: dict[str, Any] = {
    "a list": [],
    "null": None,
    "a number": 3,
    "no towers": {"model_cfg": {}},
    "towers of words": {"model_cfg": {"embed_dim": 16, "vision_cfg": "a", "text_cfg": "b"}},
    "a text tower of null": {"model_cfg": {**SMALL, "text_cfg": None}},
    "a width of words": {"model_cfg": {**SMALL, "embed_dim": "wide"}},
    "a negative width": {"model_cfg": {**SMALL, "embed_dim": -16}},
    "a huge width": {"model_cfg": {**SMALL, "embed_dim": 1 << 40}},
    "no layers": {"model_cfg": {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "layers": None}}},
    "an unknown setting": {"model_cfg": {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "colour": 3}}},
    "a preparation of words": {"model_cfg": SMALL, "preprocess_cfg": "plain"},
    "a mean of words": {"model_cfg": SMALL, "preprocess_cfg": {"mean": "grey"}},
}


@pytest.mark.parametrize("kind", list(CONFIGS))
@pytest.mark.parametrize("form", ["folder", "file"])
def test_architectures_of_another_kind(folder: Path, tmp_path: Path, kind: str, form: str) -> None:
    config = CONFIGS[kind]
    if form == "folder":
        shutil.copytree(folder / "run", tmp_path / "run")
        (tmp_path / "run" / "open_clip_config.json").write_text(json.dumps(config))
        assert outcome(lambda: load_clip(str(tmp_path / "run"), None), tmp_path / "run") is None
    elif not (isinstance(config, dict) and "preprocess_cfg" in config):
        architecture = config["model_cfg"] if isinstance(config, dict) else config
        path = tmp_path / "odd.json"
        path.write_text(json.dumps(architecture))
        assert outcome(lambda: load_clip(str(path), str(folder / "w.pt")), path.name) is None
        assert outcome(lambda: create_clip(str(path)), path.name) is None


@pytest.mark.parametrize("seed", range(NUM_WAYS))
def test_the_checkpoint_that_a_run_resumes_from(folder: Path, tmp_path: Path, seed: int) -> None:
    checkpoint = {"state_dict": torch.load(folder / "w.pt", weights_only=True), "epoch": 0}
    stamp_settings(checkpoint, {"data.seed": 3})
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path)
    mutation = mutate(path.read_bytes(), seed)
    path.write_bytes(mutation.data)

    def read() -> State:
        check_settings(path, {"data.seed": 3})
        return torch.load(path, weights_only=True)["state_dict"]

    found = outcome(read, path)
    assert found is None or _same(found, checkpoint["state_dict"]), mutation.what


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float64, torch.bfloat16])
def test_weights_of_another_dtype(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Floating ones are read as torch reads them; whole or complex numbers are no weights."""
    state = torch.load(folder / "w.pt", weights_only=True)
    torch.save({name: value.to(dtype) for name, value in state.items()}, tmp_path / "w.pt")
    found = outcome(lambda: _state(str(folder / "tiny.json"), str(tmp_path / "w.pt")), tmp_path / "w.pt")
    assert (found is not None) == dtype.is_floating_point
    if found is not None:
        assert np.allclose(found["visual.proj"], state["visual.proj"], atol=1e-2)
