"""Any CLIP that open_clip can make or load, by one pair of words: ``model`` and ``pretrained``."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import FINGERPRINT_LENGTH, file_fingerprint, fingerprint, read_json

CONFIG_NAME = "open_clip_config.json"  # open_clip's names for the files of a model folder
WEIGHTS_NAME = "open_clip_model.safetensors"


@dataclass
class LoadedCLIP:
    """A CLIP ready to encode, in eval mode on the CPU, float32.

    ``preprocess`` is the evaluation transform (PIL image -> (3, h, w) float tensor), ``tokenizer`` maps a list of
    strings to (n, context) ids, ``fingerprint`` identifies the weights.
    """

    model: torch.nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]
    fingerprint: str


def register_model(model: str) -> str:
    """The open_clip name for ``model``: itself when open_clip knows it, else its JSON file's stem, made known.

    Raises :class:`ClipsiftError` when it is neither a known name nor a JSON file with an architecture.
    """
    if model.endswith(".json"):
        path = Path(model)
        if not path.is_file():
            raise ClipsiftError(f"model: {model} does not exist")
        config = read_json(path)
        missing = {"embed_dim", "vision_cfg", "text_cfg"} - set(config)
        if missing:
            raise ClipsiftError(f"{model}: not an open_clip architecture, it lacks {', '.join(sorted(missing))}")
        open_clip.add_model_config(path)
        return path.stem
    if open_clip.get_model_config(model) is None:
        raise ClipsiftError(
            f"model: {model} is no open_clip architecture; give a name that open_clip.list_models() has, "
            "or the path of a JSON file"
        )
    return model


def create_clip(model: str, **options: Any) -> torch.nn.Module:
    """A CLIP with fresh random weights (from torch's global generator). ``model``: open_clip name or JSON file."""
    name = register_model(model)
    with _quiet_open_clip():
        return open_clip.create_model(name, pretrained=None, pretrained_text=False, **options)


def model_config(model: str) -> dict[str, Any]:
    """The architecture as open_clip's plain dictionary."""
    return open_clip.get_model_config(register_model(model))


def get_tokenizer(model: str) -> Callable[[list[str]], torch.Tensor]:
    """The tokenizer that belongs to ``model`` (open_clip name or JSON file)."""
    return open_clip.get_tokenizer(register_model(model))


def load_clip(model: str, pretrained: str | None) -> LoadedCLIP:
    """Load a CLIP with weights.

    Args:
        model: open_clip name, a JSON architecture file, or a folder that holds ``open_clip_config.json`` (what a run
            exports; then ``pretrained`` must be None).
        pretrained: tag known to open_clip (fetched from the hub), or a checkpoint file.

    Raises:
        ClipsiftError: for an unknown name or tag, a missing file, weights that do not fit the architecture.
    """
    if Path(model).is_dir():
        return _load_folder(Path(model), pretrained)
    name = register_model(model)
    if not pretrained:
        raise ClipsiftError(f"model {model}: pretrained is missing; give a tag of open_clip's or a checkpoint file")
    is_file = Path(pretrained).is_file()
    if not is_file and pretrained not in open_clip.list_pretrained_tags_by_model(name):
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ClipsiftError(f"pretrained: {pretrained} is neither a file nor a tag of {model} (it has: {tags})")
    options: dict[str, Any] = {}
    if not is_file and (open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu"):
        options["force_quick_gelu"] = True  # OpenAI's weights were trained with it; open_clip only warns
    try:
        with _quiet_open_clip():
            loaded, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained, **options)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise ClipsiftError(f"{pretrained}: cannot be loaded as {model}: {first_line(error)}") from error
    identity = file_fingerprint(pretrained) if is_file else fingerprint([name, pretrained])
    return LoadedCLIP(loaded.eval(), preprocess, open_clip.get_tokenizer(name), identity)


def _load_folder(folder: Path, pretrained: str | None) -> LoadedCLIP:
    if pretrained:
        raise ClipsiftError(f"model {folder}: a model folder holds its own weights; leave pretrained out")
    if not (folder / CONFIG_NAME).is_file():
        raise ClipsiftError(f"model {folder}: has no {CONFIG_NAME}")
    name = f"local-dir:{folder}"
    try:
        with _quiet_open_clip():
            loaded, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
            tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise ClipsiftError(f"{folder}: cannot be loaded as a model folder: {first_line(error)}") from error
    weights = folder / WEIGHTS_NAME
    identity = file_fingerprint(weights) if weights.is_file() else fingerprint(str(folder))
    return LoadedCLIP(loaded.eval(), preprocess, tokenizer, identity)


def wrap_clip(
    model: torch.nn.Module,
    preprocess: Callable[[Any], torch.Tensor] | None = None,
    tokenizer: Callable[[list[str]], torch.Tensor] | None = None,
) -> LoadedCLIP:
    """A CLIP that is in memory, as one that was loaded; it is put into eval mode.

    Args:
        model: has ``encode_image`` and ``encode_text``, as open_clip's models do.
        preprocess: picture to (3, h, w) tensor; by default open_clip's evaluation transform for the model.
        tokenizer: list of strings to (n, context) ids.

    Raises:
        ClipsiftError: when one of them is missing and the model does not tell it.
    """
    for method in ("encode_image", "encode_text"):
        if not callable(getattr(model, method, None)):
            raise ClipsiftError(f"model: a {type(model).__name__} has no {method}; give a CLIP as open_clip makes it")
    if tokenizer is None:
        raise ClipsiftError("tokenizer: is missing; open_clip.get_tokenizer(NAME) gives an architecture's")
    if preprocess is None:
        if not hasattr(getattr(model, "visual", None), "preprocess_cfg"):
            raise ClipsiftError("preprocess: is missing, and the model does not say how its pictures are prepared")
        preprocess = evaluation_transform(model)
    return LoadedCLIP(model.eval(), preprocess, tokenizer, _weights_fingerprint(model))


def _weights_fingerprint(model: torch.nn.Module) -> str:
    """Hash of names and values of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


def evaluation_transform(model: torch.nn.Module) -> Callable[[Any], torch.Tensor]:
    """open_clip's evaluation preprocessing for ``model``."""
    return image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)  # type: ignore[union-attr, arg-type]


class _quiet_open_clip:
    """Silence open_clip's root-logger chatter (it warns that a model made without weights has random ones)."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._level)
