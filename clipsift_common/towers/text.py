"""open_clip's text tower on no more positions than its texts have, where that changes nothing."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import open_clip
import torch
from torch import Tensor, nn


def takes_short_texts(model: nn.Module) -> bool:
    """Whether ids cut behind the longest text give the features that whole contexts give.

    So it is in open_clip's ``CLIP``: a position sees only those before it, and the feature is taken at the end-of-text
    token. All other architectures (other attention, other pooling, class tokens, foreign text towers) need whole
    contexts.
    """
    if not isinstance(model, open_clip.CLIP) or not _is_open_clips(type(model)):
        return False
    pools_at_end = model.text_pool_type == "argmax" or (model.text_pool_type == "eos" and model.text_eos_id != 0)
    return pools_at_end and _is_causal(cast("Tensor | None", model.attn_mask))


def encode_short(model: nn.Module, text: Tensor, normalize: bool = False) -> Tensor:
    """open_clip's ``encode_text`` for (n, l) ids, l at most the context, of a model that takes short texts."""
    return open_clip.CLIP.encode_text(cast(Any, _FirstPositions(model, text.shape[1])), text, normalize)


class TextLengths:
    """(n,) positions of texts, each up to its last id that is not 0, at least 1: the end of a text is among them.

    0 is what open_clip's own tokenizer fills the context with. They stay on the CPU: what turns a batch into tensors,
    pins it or moves it to a device does not know this class.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @classmethod
    def of(cls, tokens: Tensor) -> TextLengths:
        """Of (n, context) ids on the CPU."""
        ends = tokens.ne(0) * torch.arange(1, tokens.shape[1] + 1)
        return cls(ends.amax(1).clamp(min=1).numpy())

    def __getitem__(self, rows: Any) -> TextLengths:
        return TextLengths(self.values[rows])


class ShortTextCLIP(open_clip.CLIP):
    """open_clip's ``CLIP``, called with ids of any length up to the context."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        return encode_short(self, text, normalize)


class _FirstPositions:
    """A CLIP as its ``encode_text`` sees it, with only the first positions of its context."""

    def __init__(self, model: Any, length: int) -> None:
        self.positional_embedding = model.positional_embedding[:length]
        self.attn_mask = model.attn_mask[:length, :length]
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _is_open_clips(kind: Any) -> bool:
    return kind.encode_text in (open_clip.CLIP.encode_text, ShortTextCLIP.encode_text)


def _is_causal(mask: Tensor | None) -> bool:
    if mask is None or mask.ndim != 2:
        return False
    return torch.equal(mask.cpu(), torch.full_like(mask, -torch.inf, device="cpu").triu(1))
