"""Selective checkpointing: the gradients of none, and memory between none and all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from clipsift_app.doctor.memory import saved_tensors
from helpers.tiny_clip import write_architecture
from training import CLIPModule, fit
from training.economy.checkpointing import blocks


def step(module: CLIPModule) -> tuple[int, list[torch.Tensor]]:
    """Bytes kept for the backward pass, and the gradients."""
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(4, 3, 32, 32, generator=generator), torch.randint(1, 49407, (4, 16), generator=generator)
    with saved_tensors(module.hparams["grad_checkpointing"] == "selective") as saved:
        out = module.clip(image, text)
        kept = saved.bytes
        (out["image_features"].sum() * 3 + out["text_features"].std()).backward()
    return kept, [parameter.grad for parameter in module.clip.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("copies", [False, True])
def test_gradients_are_the_same_and_memory_is_between(tmp_path, copies):
    kept: dict[Any, int] = {}
    gradients: dict[Any, list[torch.Tensor]] = {}
    for how in (False, True, "selective"):
        module = CLIPModule(str(write_architecture(tmp_path)), lr=1.0, warmup=0, grad_checkpointing=how)
        kept[how], gradients[how] = step(copy.deepcopy(module) if copies else module)
    assert len(gradients[False]) == len(gradients["selective"])
    assert all(torch.equal(one, other) for one, other in zip(gradients[False], gradients["selective"]))
    assert kept[True] < kept["selective"] < kept[False]


def test_products_are_not_computed_again(tmp_path):
    work: dict[Any, int] = {}
    for how in (False, True, "selective"):
        module = CLIPModule(str(write_architecture(tmp_path)), lr=1.0, warmup=0, grad_checkpointing=how)
        with FlopCounterMode(display=False) as counter:
            step(module)
        work[how] = counter.get_total_flops()
    assert work[False] == work["selective"] < work[True]


def test_what_is_kept_by_hand(tmp_path):
    """Of a tower's block with n positions of width w: its input, in and out projection, both layers of the MLP, and
    what attention gives: w + 3 w + w + 4 w + w + w numbers."""
    module = CLIPModule(str(write_architecture(tmp_path)), lr=1.0, warmup=0, grad_checkpointing="selective")
    text = torch.randint(1, 49407, (4, 16))
    with saved_tensors(True) as saved:
        embedded = module.clip.token_embedding(text).detach().requires_grad_()
        saved.restart()
        module.clip.transformer(embedded, attn_mask=module.clip.attn_mask)
    assert len(blocks(module.clip.transformer)) == 2
    numbers, width = 4 * 16, 16
    assert saved.bytes == pytest.approx(2 * 4 * numbers * width * 11, rel=0.1)


@pytest.mark.slow
def test_selective_and_compiled(make_data, make_module, machine, tmp_path):
    plain, other = make_module(), make_module(compile=True, grad_checkpointing="selective")
    fit(plain, make_data(), tmp_path / "plain", machine)
    fit(other, make_data(), tmp_path / "other", machine)
    assert other.record["loss"] == pytest.approx(plain.record["loss"], abs=1e-4)
