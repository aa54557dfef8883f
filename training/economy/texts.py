"""A batch's captions in groups by length: padding, most of a context, is hardly computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selection.kernels.transfer import sent

GROUPS = 4  # of a batch; more save little, and each costs the starts of a tower's kernels
LEAST = 32  # captions of a group; smaller ones cost a CPU more than they save
STEP = 8  # a group's length is a multiple of it, so that few lengths occur and tensor cores have whole blocks


@dataclass(frozen=True)
class GroupedTexts:
    """``groups``: ids, (number, l) each, cut behind their longest; ``order`` (b,): whose row each of them was."""

    groups: list[Tensor]
    order: Tensor

    @classmethod
    def of(cls, text: Tensor, lengths: Tensor) -> GroupedTexts:
        """Of (b, context) ids, on any device, and their (b,) lengths on the CPU: a GPU is not waited for.

        Groups of equal size by length; neighbours that would be equally long are one.
        """
        ordered, order = lengths.sort(stable=True)
        sizes: dict[int, int] = {}  # by length, ascending
        for part in ordered.chunk(max(1, min(GROUPS, len(text) // LEAST))):
            length = min(-(-int(part[-1]) // STEP) * STEP, text.shape[1])
            sizes[length] = sizes.get(length, 0) + len(part)
        order = sent(order, text.device)
        rows = text[order].split(list(sizes.values()))
        return cls([group[:, :length] for group, length in zip(rows, sizes)], order)

    def encode(self, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """(b, d) features in the rows' own order, by ``encode`` of each group's ids."""
        features = torch.cat([encode(group) for group in self.groups])
        return torch.empty_like(features).index_copy(0, self.order, features)
