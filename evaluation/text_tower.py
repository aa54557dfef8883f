"""A CLIP's text tower on no more positions than the texts have."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clipsift_common.towers.text import encode_short, takes_short_texts

TEXT_BATCH = 512  # texts encoded at once


class TextTower:
    """``encode_text`` of a CLIP, without the padding behind the texts where that changes nothing.

    Class prompts have some 10 tokens, the context 77.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._cuts = takes_short_texts(model)

    def encode(self, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Features, not normalised, of ``tokens`` (n, context) in batches: (b,) row numbers, (b, d) features.

        A text is encoded among texts of its own length only, so that its feature depends on the others no more than
        it does in whole contexts: through the size of the batch.
        """
        device = next(self.model.parameters()).device
        lengths = self._lengths(tokens)
        for length in lengths.unique().tolist():
            for rows in (lengths == length).nonzero()[:, 0].split(TEXT_BATCH):
                yield rows, self._encode(tokens[rows, :length].to(device))

    def _encode(self, tokens: Tensor) -> Tensor:
        return encode_short(self.model, tokens) if self._cuts else self.model.encode_text(tokens)  # type: ignore[operator]

    def _lengths(self, tokens: Tensor) -> Tensor:
        """(n,) number of positions up to the one that the feature is taken at."""
        if self._cuts and self.model.text_pool_type == "argmax":
            return tokens.argmax(dim=1) + 1
        if self._cuts and self.model.text_pool_type == "eos":
            return tokens.eq(self.model.text_eos_id).int().argmax(dim=1) + 1  # type: ignore[arg-type]
        return torch.full((len(tokens),), tokens.shape[1])
