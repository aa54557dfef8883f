"""Checkpoints as other programs leave them: valid ones are read, whatever wraps them; others are one line."""

from __future__ import annotations

import argparse
import collections
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from clipsift_common.clip import create_clip, load_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.pretrained import hub
from helpers.mutations import Trap
from helpers.tiny_clip import ARCHITECTURE, write_architecture

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    torch.manual_seed(0)
    return create_clip(str(write_architecture(tmp_path_factory.mktemp("tiny")))).state_dict()


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write_architecture(tmp_path))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def load(model: str, checkpoint: Any, path: Path) -> State:
    torch.save(checkpoint, path)
    return load_clip(model, str(path)).model.state_dict()


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "clip.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "clip.module._orig_mod.",
    ],
)
@pytest.mark.parametrize("place", [(), ("state_dict",), ("model",), ("model", "state_dict"), ("state_dict", "module")])
def test_wrappers_are_taken_off_in_any_order(
    model: str, state: State, tmp_path: Path, prefix: str, place: tuple[str, ...]
) -> None:
    checkpoint: dict[str, Any] = prefixed(state, prefix)
    for key in reversed(place):
        checkpoint = {key: checkpoint, "epoch": 3, "optimizer": {"state": {}}}
    found = load(model, checkpoint, tmp_path / "a.pt")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_losss_numbers_beside_the_model_are_left_out(model: str, state: State, tmp_path: Path) -> None:
    found = load(model, {"state_dict": prefixed(state, "clip.") | {"loss.scale": torch.ones(1)}}, tmp_path / "a.ckpt")
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_safetensors_with_prefixes_are_read(model: str, state: State, tmp_path: Path) -> None:
    save_file({"module." + name: value.clone() for name, value in state.items()}, tmp_path / "a.safetensors")
    found = load_clip(model, str(tmp_path / "a.safetensors")).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (np.float64(0.5), "numpy.*scalar"),
        (argparse.Namespace(lr=1e-3), "argparse.Namespace"),
        (collections.deque([1]), "collections.deque"),
        (Path("a"), "pathlib"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_what_could_only_be_unpickled_is_named_with_the_remedy(
    model: str, state: State, tmp_path: Path, beside: object, named: str, zipped: bool
) -> None:
    checkpoint = {"state_dict": state, "args": beside}
    torch.save(checkpoint, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ClipsiftError, match=rf"a\.pt: holds a {named}.* beside weights.*save its weights alone"):
        load_clip(model, str(tmp_path / "a.pt"))


@pytest.mark.parametrize("form", ["plain", "zip", "old"])
def test_nothing_is_unpickled(model: str, state: State, tmp_path: Path, form: str) -> None:
    path = tmp_path / "trap.pt"
    if form == "plain":
        path.write_bytes(pickle.dumps({"state_dict": Trap(tmp_path / "sprung")}))
    else:
        torch.save({"a": state, "b": Trap(tmp_path / "sprung")}, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ClipsiftError, match=r"trap\.pt: "):
        load_clip(model, str(path))
    assert not (tmp_path / "sprung").exists()


WRONG = {
    "page.pt": b"<!DOCTYPE html><html>Sign in</html>",
    "pointer.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    "empty.pt": b"",
    "noise.pt": bytes(range(256)) * 9,
    "pickle2.pt": pickle.dumps({"a": 1}, protocol=2),
    "pickle4.pt": pickle.dumps({"a": 1}, protocol=4),
    "list.pt": None,
    "nothing.pt": None,
    "numbers.pt": None,
    "empty.safetensors": b"",
    "page.safetensors": b"<!DOCTYPE html><html>Sign in</html>",
    "huge.safetensors": struct.pack("<Q", 1 << 60) + b"{}",
    "long.safetensors": struct.pack("<Q", 90_000_000) + b"{}",
    "bare.safetensors": struct.pack("<Q", 2) + b"{}",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_checkpoint_is_one_line_that_names_it(model: str, tmp_path: Path, name: str) -> None:
    made = {"list.pt": [torch.ones(2)], "nothing.pt": {}, "numbers.pt": {"epoch": 3, "state_dict": {}}}
    if name in made:
        torch.save(made[name], tmp_path / name)
    else:
        (tmp_path / name).write_bytes(WRONG[name])
    with pytest.raises(ClipsiftError, match=rf"^{tmp_path / name}: ") as caught:
        load_clip(model, str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
def test_a_checkpoint_that_is_cut_off_is_named(
    model: str, state: State, tmp_path: Path, kind: str, share: float
) -> None:
    path = tmp_path / f"cut.{kind}"
    torch.save(state, path) if kind == "pt" else save_file({n: v.clone() for n, v in state.items()}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ClipsiftError, match=rf"cut\.{kind}: is .*fetch it again"):
        load_clip(model, str(path))


def test_weights_of_another_architecture_are_named_with_what_differs(model: str, state: State, tmp_path: Path) -> None:
    wide = {name: torch.cat([value, value]) if value.ndim > 1 else value for name, value in state.items()}
    for other in (wide, {name: value for name, value in state.items() if "ln_final" not in name}):
        with pytest.raises(ClipsiftError, match=r"a\.pt: cannot be loaded as .*tiny\.json: .*(ln_final|size mismatch)"):
            load(model, other, tmp_path / "a.pt")


def folder_of(state: State, folder: Path, name: str, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": ARCHITECTURE, "preprocess_cfg": config}))
    if name.endswith("safetensors"):
        save_file({key: value.clone() for key, value in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return folder


@pytest.mark.parametrize(
    "name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"]
)
def test_a_folder_is_known_by_its_weights_and_preparation(state: State, tmp_path: Path, name: str) -> None:
    """Not by its place."""
    first = load_clip(str(folder_of(state, tmp_path / "a", name)), None).identity
    assert load_clip(str(folder_of(state, tmp_path / "b", name)), None).identity == first
    changed = state | {"visual.proj": state["visual.proj"] + 1e-3}
    assert load_clip(str(folder_of(changed, tmp_path / "a", name)), None).identity != first
    assert load_clip(str(folder_of(state, tmp_path / "a", name, mean=[0, 0, 0])), None).identity != first


def test_a_checkpoint_is_known_by_what_is_computed_with_it(model: str, state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pt")
    first = load_clip(model, str(tmp_path / "a.pt")).identity
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes())
    assert load_clip(model, str(tmp_path / "b.pt")).identity == first
    torch.save(state | {"logit_scale": state["logit_scale"] + 1}, tmp_path / "a.pt")
    assert load_clip(model, str(tmp_path / "a.pt")).identity != first
    Path(model).write_text(json.dumps(ARCHITECTURE | {"quick_gelu": True}))
    assert load_clip(model, str(tmp_path / "b.pt")).identity != first


@pytest.mark.parametrize("part", ["hf_tokenizer_name", "hf_model_name"])
def test_a_part_on_the_hub_without_a_network_is_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """The port is closed: no look-up, no retries."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.use_cache_if_unreachable.cache_clear()
    text = ARCHITECTURE["text_cfg"] | {part: "nobody/nothing-like-it"}
    (tmp_path / "far.json").write_text(json.dumps(ARCHITECTURE | {"text_cfg": text}))
    with pytest.raises(
        ClipsiftError, match=rf"far\.json: {part}: nobody/nothing-like-it is on the .*cannot be reached"
    ):
        create_clip(str(tmp_path / "far.json"))
    hub.use_cache_if_unreachable.cache_clear()
    assert open_clip.get_model_config("far") is not None


def test_a_flipped_bit_in_any_record_is_refused(model: str, state: State, tmp_path: Path) -> None:
    """torch reads an archive without a look at its checksums."""
    torch.save(state, tmp_path / "whole.pt")
    content = (tmp_path / "whole.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "whole.pt") as archive:
        records = [record for record in archive.infolist() if record.file_size > 1000]
    assert len(records) > 20
    for record in records[::5]:
        flipped = bytearray(content)
        flipped[record.header_offset + 128 + record.file_size // 2] ^= 1
        (tmp_path / "flipped.pt").write_bytes(flipped)
        with pytest.raises(ClipsiftError, match=r"flipped\.pt: is no whole checkpoint .*CRC.*fetch it again"):
            load_clip(model, str(tmp_path / "flipped.pt"))


def test_checkpoints_without_checksums_are_read(model: str, state: State, tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    torch.save(state, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for name in ("a.pt", "b.pt"):
        found = load_clip(model, str(tmp_path / name)).model.state_dict()
        assert all(torch.equal(found[name], value) for name, value in state.items())


def test_a_tag_that_cannot_be_fetched_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ClipsiftError, match=r"yfcc15m: .*; fetch the file where there is a"):
        load_clip("RN50", "yfcc15m")


@pytest.mark.parametrize(
    "architecture",
    [
        None,
        [1],
        ARCHITECTURE | {"text_cfg": None},
        ARCHITECTURE | {"embed_dim": "wide"},
        ARCHITECTURE | {"embed_dim": -16},
        ARCHITECTURE | {"vision_cfg": ARCHITECTURE["vision_cfg"] | {"colour": 3}},
        ARCHITECTURE | {"vision_cfg": ARCHITECTURE["vision_cfg"] | {"layers": None}},
    ],
)
def test_what_is_no_architecture_is_named(tmp_path: Path, architecture: Any) -> None:
    (tmp_path / "odd.json").write_text(json.dumps(architecture))
    with pytest.raises(ClipsiftError, match=r"odd\.json: (not|cannot be loaded as) an .*architecture.*give "):
        create_clip(str(tmp_path / "odd.json"))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floating_point_numbers_are_refused(
    model: str, state: State, tmp_path: Path, dtype: torch.dtype
) -> None:
    """torch would copy whole numbers into the model, and the real parts of complex ones."""
    with pytest.raises(ClipsiftError, match=rf"a\.pt: its weights are {dtype}, no floating-point numbers; give"):
        load(model, {name: value.to(dtype) for name, value in state.items()}, tmp_path / "a.pt")
    beside = state | {"text.position_ids": torch.arange(77)[None]}
    with pytest.raises(ClipsiftError, match="position_ids"):  # it is of another architecture, not another dtype
        load(model, beside, tmp_path / "a.pt")


@pytest.mark.parametrize("preparation", [{"mean": "grey"}, {"std": "wide"}, {"std": [0, 0, 0]}])
def test_a_preparation_of_nonsense_is_named(state: State, tmp_path: Path, preparation: dict[str, Any]) -> None:
    folder = folder_of(state, tmp_path / "run", "open_clip_model.safetensors", **preparation)
    with pytest.raises(ClipsiftError, match=r"run: cannot be loaded as a model folder: .*; give"):
        load_clip(str(folder), None)
