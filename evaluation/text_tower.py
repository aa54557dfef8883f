"""A CLIP's text tower on no more positions than the texts have."""

from __future__ import annotations

from collections.abc import Iterator

import open_clip
import torch
from torch import Tensor, nn
from torch.func import functional_call

TEXT_BATCH = 512  # texts encoded at once


class TextTower(nn.Module):
    """``encode_text`` of an open_clip model, without the padding behind the texts where that changes nothing.

    In open_clip's ``CLIP`` a position sees only those before it, and the feature is taken at the end-of-text token:
    what comes after it is computed for nothing. Class prompts have some 10 tokens, the context 77. All other
    architectures (other attention, other pooling, foreign text towers) get whole contexts.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._cuts = type(model) is open_clip.CLIP and _is_causal(model.attn_mask)  # type: ignore[arg-type]

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, context) ids -> (n, d) features, not normalised."""
        return self.model.encode_text(tokens)  # type: ignore[operator]

    def encode(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of ``tokens`` (n, context) in batches: (b,) row numbers, (b, d) features.

        A text is encoded among texts of its own length only, so that its feature depends on the others no more than
        it does in whole contexts: through the size of the batch.
        """
        device = next(self.model.parameters()).device
        lengths = self._lengths(tokens)
        for length in lengths.unique().tolist():
            for rows in (lengths == length).nonzero()[:, 0].split(TEXT_BATCH):
                yield rows, self._encode(tokens[rows, :length].to(device))

    def _encode(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if not self._cuts:
            return self(tokens)
        shortened = {
            "model.positional_embedding": self.model.positional_embedding[:length],  # type: ignore[index]
            "model.attn_mask": self.model.attn_mask[:length, :length],  # type: ignore[index]
        }
        return functional_call(self, shortened, (tokens,))

    def _lengths(self, tokens: Tensor) -> Tensor:
        """(n,) number of positions up to the one that the feature is taken at."""
        if self._cuts and self.model.text_pool_type == "argmax":
            return tokens.argmax(dim=1) + 1
        if self._cuts and self.model.text_pool_type == "eos":
            return tokens.eq(self.model.text_eos_id).int().argmax(dim=1) + 1  # type: ignore[arg-type]
        return torch.full((len(tokens),), tokens.shape[1])


def _is_causal(mask: Tensor | None) -> bool:
    if mask is None or mask.ndim != 2:
        return False
    return torch.equal(mask.cpu(), torch.full_like(mask, -torch.inf, device="cpu").triu(1))
