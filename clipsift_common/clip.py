"""Any CLIP that open_clip can make or load, by one pair of words: ``model`` and ``pretrained``."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import FINGERPRINT_LENGTH, file_fingerprint, fingerprint, read_json
from clipsift_common.pretrained.hub import require_on_hand, use_cache_if_unreachable
from clipsift_common.pretrained.weights import read_weights

CONFIG_NAME = "open_clip_config.json"  # open_clip's names for the files of a model folder
WEIGHTS_NAME = "open_clip_model.safetensors"


@dataclass
class LoadedCLIP:
    """A CLIP ready to encode, in eval mode on the CPU, float32.

    ``preprocess`` is the evaluation transform (PIL image -> (3, h, w) float tensor), ``tokenizer`` maps a list of
    strings to (n, context) ids, ``fingerprint`` identifies the weights by content, ``preparation`` the architecture
    and the preprocessing.
    """

    model: torch.nn.Module
    preprocess: Callable[[Any], torch.Tensor]
    tokenizer: Callable[[list[str]], torch.Tensor]
    fingerprint: str
    preparation: str = ""

    @property
    def identity(self) -> str:
        """Hash that changes with the features that it makes."""
        return fingerprint([self.fingerprint, self.preparation])


def register_model(model: str) -> str:
    """The open_clip name for ``model``: itself when open_clip knows it, else its JSON file's stem, made known.

    Raises :class:`ClipsiftError` when it is neither a known name nor a JSON file with an architecture, or when its
    tokenizer or text tower would have to be fetched without a network.
    """
    if model.endswith(".json"):
        path = Path(model)
        if not path.is_file():
            raise ClipsiftError(f"model: {model} does not exist")
        config = read_json(path, "mend it, or get it again")
        _check_architecture(model, config)
        open_clip.add_model_config(path)
        _require_parts(model, config)
        return path.stem
    if open_clip.get_model_config(model) is None:
        raise ClipsiftError(
            f"model: {model} is no open_clip architecture; give a name that open_clip.list_models() has, "
            "or the path of a JSON file"
        )
    _require_parts(model, open_clip.get_model_config(model))
    return model


def _check_architecture(file: str, config: Any) -> None:
    """Raise :class:`ClipsiftError` for what is no architecture of open_clip's, by its outline."""
    kinds = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}
    wrong = [
        name for name, kind in kinds.items() if not isinstance(config, dict) or not isinstance(config.get(name), kind)
    ]
    if wrong:
        raise ClipsiftError(
            f"{file}: not an open_clip architecture, it lacks {', '.join(wrong)} or has something else there; "
            "give one such as those in configs/model"
        )


def _require_parts(model: str, config: dict[str, Any]) -> None:
    """See that what the text side takes from the Hugging Face hub is here, or can be fetched."""
    for part in ("hf_model_name", "hf_tokenizer_name"):
        if name := config["text_cfg"].get(part):
            require_on_hand(f"model {model}: {part}", name)


def create_clip(model: str, **options: Any) -> torch.nn.Module:
    """A CLIP with fresh random weights (from torch's global generator). ``model``: open_clip name or JSON file."""
    name = register_model(model)
    with _loading(model, "an architecture", "mend it, or give another"), _quiet_open_clip():
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
        ClipsiftError: for an unknown name or tag, a missing file, a checkpoint that cannot be read or does not fit the
            architecture (see :func:`clipsift_common.pretrained.weights.read_weights`).
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
    if not is_file:
        use_cache_if_unreachable()
        if (open_clip.get_pretrained_cfg(name, pretrained) or {}).get("quick_gelu"):
            options["force_quick_gelu"] = True  # OpenAI's weights were trained with it; open_clip only warns
    remedy = "give weights and model alike" if is_file else "fetch the file where there is a network, and give its path"
    with _loading(pretrained, model, remedy), _quiet_open_clip(), _own_reader() if is_file else nullcontext():
        loaded, _, preprocess = open_clip.create_model_and_transforms(name, pretrained=pretrained, **options)
    weights = file_fingerprint(pretrained) if is_file else fingerprint([name, pretrained])
    config = [open_clip.get_model_config(name), options]
    return LoadedCLIP(loaded.eval(), preprocess, open_clip.get_tokenizer(name), weights, _preparation(loaded, config))


def _load_folder(folder: Path, pretrained: str | None) -> LoadedCLIP:
    if pretrained:
        raise ClipsiftError(f"model {folder}: a model folder holds its own weights; leave pretrained out")
    if not (folder / CONFIG_NAME).is_file():
        raise ClipsiftError(f"model {folder}: has no {CONFIG_NAME}")
    config = read_json(folder / CONFIG_NAME, "get the one that belongs to the weights")
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ClipsiftError(f"{folder / CONFIG_NAME}: has no model_cfg; take the one that belongs to the weights")
    _check_architecture(str(folder / CONFIG_NAME), config["model_cfg"])
    _require_parts(str(folder), config["model_cfg"])
    name = f"local-dir:{folder}"
    with _loading(str(folder), "a model folder"), _quiet_open_clip(), _own_reader() as read:
        loaded, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
        preprocess(Image.new("RGB", (1, 1)))  # so that a preparation of nonsense is found now
        tokenizer = open_clip.get_tokenizer(name)
    preparation = _preparation(loaded, config["model_cfg"])
    return LoadedCLIP(loaded.eval(), preprocess, tokenizer, file_fingerprint(read[0]), preparation)


def _preparation(model: torch.nn.Module, config: Any) -> str:
    return fingerprint([config, model.visual.preprocess_cfg])  # type: ignore[union-attr]


@contextmanager
def _loading(file: str, what: str, remedy: str = "give weights and model alike") -> Iterator[None]:
    """Make one line, with ``file`` and ``remedy``, of all that open_clip raises about weights of something else."""
    try:
        yield
    except ClipsiftError:
        raise
    except Exception as error:  # RuntimeError of load_state_dict, but also KeyError, AttributeError, IndexError ...
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = " ".join(lines[:2])[:300] or type(error).__name__  # torch's first line says only that something is
        raise ClipsiftError(f"{file}: cannot be loaded as {what}: {reason}; {remedy}") from error


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


@contextmanager
def _own_reader() -> Iterator[list[str]]:
    """Let open_clip take a checkpoint's weights from :func:`read_weights`; it has no way to hand it a state dict.

    Yields the list of the files that it reads.
    """
    read: list[str] = []
    before = open_clip.factory.load_state_dict

    def load_state_dict(path: str, **_: Any) -> dict[str, torch.Tensor]:
        read.append(path)
        return read_weights(path)

    open_clip.factory.load_state_dict = load_state_dict
    try:
        yield read
    finally:
        open_clip.factory.load_state_dict = before


class _quiet_open_clip:
    """Silence open_clip's root-logger chatter (it warns that a model made without weights has random ones)."""

    def __enter__(self) -> None:
        self._level = logging.getLogger().level
        logging.getLogger().setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.getLogger().setLevel(self._level)
