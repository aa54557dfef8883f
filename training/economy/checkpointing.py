"""Activations that are not kept for the backward pass: all inside of a block, or all but its matrix products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

Checkpointing = bool | Literal["selective"]

_aten = torch.ops.aten
# Results that selective checkpointing keeps: what takes a block's time. The rest of it (norms, activation functions,
# sums, casts, copies) is computed again, and is most of what a block would keep.
KEPT: list[Any] = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer blocks of a CLIP's towers, by the names of their classes; none in other architectures."""
    return [module for module in model.modules() if type(module).__name__.endswith("Block")]


def set_checkpointing(clip: Any, how: Checkpointing) -> None:
    """Have ``clip`` keep less for the backward pass, block by block; call it once.

    True recomputes all of a block (open_clip's own way), ``selective`` all but the results of :data:`KEPT`. Gradients
    are those of False.
    """
    clip.set_grad_checkpointing(how is True)
    if how == "selective":
        contexts = partial(create_selective_checkpoint_contexts, KEPT)
        for block in blocks(clip):
            forward = partial(_with_casts_of_its_own, block.forward)
            setattr(block, "forward", partial(checkpoint, forward, use_reentrant=False, context_fn=contexts))  # noqa: B010


def _with_casts_of_its_own(forward: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    """``forward`` with the same operations each time: autocast would keep a weight's cast for the next call.

    The second group of captions would then not cast what the backward pass casts, and be refused for it.
    """
    if torch.compiler.is_compiling():  # where casts are part of the graph
        return forward(*args, **kwargs)
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        return forward(*args, **kwargs)
    finally:
        torch.set_autocast_cache_enabled(before)
