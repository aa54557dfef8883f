"""The weights in a checkpoint file, whoever wrote it, as one state dict with a model's own names; nothing is unpickled.

A file may be torch's or safetensors', hold the weights under a key of any depth beside other things, and name them with
the prefixes of wrappers (``torch.compile``, DDP, Lightning modules), in any order.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.pretrained.torch_files import read_torch

# Where training programs put the weights, the first that is there; a plain state dict has none of them.
_PLACES = ("state_dict", "model_state_dict", "model_state", "model", "module", "network", "weights")
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "module.", "model.", "clip.", "net.", "network.")
_NOT_TENSOR = re.compile(r"GLOBAL (\S+) was not an allowed")  # in torch's refusal


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in ``path``, on the CPU, without the names of wrappers.

    Raises:
        ClipsiftError: for a file that is no checkpoint, is damaged, has no weights, or could only be unpickled.
    """
    path = Path(path)
    loaded = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    return _unwrapped(_find(path, loaded))


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise ClipsiftError(f"{path}: is no whole safetensors file ({first_line(error)}); fetch it again") from error


def _torch_file(path: Path) -> Any:
    with open(path, "rb") as handle:
        start = handle.read(64)
    if not start:
        raise ClipsiftError(f"{path}: is empty; fetch it again")
    if start.lstrip().startswith((b"<", b"version https://git-lfs")):
        raise ClipsiftError(f"{path}: is a web page or a pointer, not a checkpoint; fetch the file itself")
    try:
        return read_torch(path)
    except Exception as error:  # of a damaged pickle anything: struct.error, EOFError, IndexError, KeyError ...
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ClipsiftError:
    text = str(error)
    if "TorchScript" in text:
        return ClipsiftError(
            f"{path}: is a TorchScript archive; save the state dict alone: "
            "torch.save(torch.jit.load(FILE, 'cpu').state_dict(), NEW)"
        )
    if isinstance(error, pickle.UnpicklingError) and (found := _NOT_TENSOR.search(text)):
        return ClipsiftError(
            f"{path}: holds a {found[1]} beside weights, and nothing is unpickled; if you trust the file, save its "
            "weights alone: torch.save(torch.load(FILE, weights_only=False)[KEY], NEW)"
        )
    return ClipsiftError(f"{path}: is no whole checkpoint of torch's ({first_line(error)}); fetch it again")


def _find(path: Path, loaded: Any) -> Mapping[str, Tensor]:
    """The innermost mapping of names to tensors."""
    if not isinstance(loaded, Mapping):
        raise ClipsiftError(f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict()")
    for place in _PLACES:
        if isinstance(loaded.get(place), Mapping):
            return _find(path, loaded[place])
    weights = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not weights:
        keys = ", ".join(sorted(map(str, loaded))[:10]) or "nothing"
        raise ClipsiftError(f"{path}: has no weights (it holds: {keys}); give a file of model.state_dict()")
    matrices = [value for value in weights.values() if value.ndim > 1]
    numbers = [value for value in matrices if not value.is_floating_point()]  # a few may be masks and positions
    if 2 * len(numbers) > len(matrices):
        raise ClipsiftError(f"{path}: its weights are {numbers[0].dtype}, no floating-point numbers; give such weights")
    return weights


def _unwrapped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without wrappers' prefixes. What lies outside (a loss's numbers beside ``clip.``) is left out."""
    while True:
        counts = {prefix: sum(name.startswith(prefix) for name in weights) for prefix in _WRAPPERS}
        prefix = max(counts, key=counts.__getitem__)
        if 2 * counts[prefix] <= len(weights):
            return dict(weights)
        weights = {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}
