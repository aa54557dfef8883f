"""Captions encoded in groups by length: loss and gradients are those of whole contexts, with fewer positions."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch.utils.data import default_convert
from torch.utils.data._utils.pin_memory import pin_memory

from clipsift_common.clip import create_clip
from clipsift_common.towers.text import TextLengths, encode_short, takes_short_texts
from helpers.tiny_clip import ARCHITECTURE
from training import CLIPModule
from training.economy import texts
from training.economy.texts import STEP, GroupedTexts
from training.loss import contrastive_loss

CAPTIONS = ["a", "", "a photo of a dog", "word " * 200, "two dogs and a cat on a long red sofa", "a cat", "dog", "x y"]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "LEAST", 1)


def write_model(folder: Path, **text: Any) -> str:
    """A tiny CLIP with a context of 32, so that groups differ, and patches that are dropped."""
    changes = {
        "vision_cfg": ARCHITECTURE["vision_cfg"] | {"patch_dropout": 0.5},  # type: ignore[operator]
        "text_cfg": ARCHITECTURE["text_cfg"] | {"context_length": 32} | text,  # type: ignore[operator]
    }
    path = folder / "grouped.json"
    path.write_text(json.dumps(ARCHITECTURE | changes))
    return str(path)


def batch() -> dict[str, Any]:
    text = open_clip.SimpleTokenizer(context_length=32)(CAPTIONS)
    image = torch.randint(0, 256, (len(text), 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return {"image": image, "text": text, "text_lengths": TextLengths.of(text)}


def step(module: CLIPModule, batch: dict[str, Any], half: bool = False) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients of all weights, from the same patches; ``half``: in mixed precision."""
    module._loss = contrastive_loss(0, 1)
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = module.train().training_step(batch, 0)
    loss.backward()
    return loss.item(), [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def test_a_length_ends_with_the_text() -> None:
    tokens = open_clip.SimpleTokenizer(context_length=32)(["a", "a b", "", "word " * 99])
    assert TextLengths.of(tokens).values.tolist() == [3, 4, 2, 32]
    assert TextLengths.of(torch.zeros(1, 5, dtype=torch.int64)).values.tolist() == [1]


def test_lengths_stay_as_they_are_on_a_batch_s_way_to_a_device() -> None:
    lengths = batch()["text_lengths"]
    for move in (default_convert, pin_memory, lambda values: move_data_to_device(values, torch.device("meta"))):
        assert move({"text_lengths": lengths})["text_lengths"] is lengths


def test_groups_are_sorted_cut_and_put_back() -> None:
    whole = batch()
    grouped = GroupedTexts.of(whole["text"], torch.from_numpy(whole["text_lengths"].values))
    shapes = [tuple(group.shape) for group in grouped.groups]
    assert shapes == [(6, 8), (2, 32)]  # of 2, 3; 3, 3; 4, 6; 12 and 32 positions: quarters, three of them as long
    assert all(length % STEP == 0 for _, length in shapes)
    first = grouped.encode(lambda ids: torch.stack([ids[:, 1], ids.ne(0).sum(1)], 1).float())
    assert first[:, 0].tolist() == whole["text"][:, 1].tolist()
    assert first[:, 1].tolist() == whole["text_lengths"].values.tolist()


@pytest.mark.parametrize(
    "hyper",
    [{}, {"accumulate": 2}, {"grad_checkpointing": True}, {"grad_checkpointing": "selective"}, {"loss": "siglip"}],
    ids=str,
)
def test_losses_and_gradients_are_those_of_whole_contexts(tmp_path: Path, hyper: dict[str, Any]) -> None:
    model, captions = write_model(tmp_path), batch()
    whole, cut = (CLIPModule(model, lr=1.0, warmup=0, trim_text=trims, **hyper) for trims in (False, True))
    seen = list[int]()
    cut.clip.ln_final.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    (loss, gradients), (cut_loss, cut_gradients) = (step(module, captions) for module in (whole, cut))
    assert cut_loss == pytest.approx(loss, abs=1e-6)
    assert len(gradients) == len(cut_gradients)
    for one, other in zip(gradients, cut_gradients):
        assert (one - other).norm() <= 1e-5 * one.norm() + 1e-7
    assert min(seen) == 8 < max(seen) == 32


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("how", [False, True, "selective"])
def test_and_in_mixed_precision(tmp_path: Path, how: Any, accumulate: int) -> None:
    model, captions = write_model(tmp_path), batch()
    hyper = {"grad_checkpointing": how, "accumulate": accumulate}
    whole, cut = (CLIPModule(model, lr=1.0, warmup=0, trim_text=trims, **hyper) for trims in (False, True))
    (loss, gradients), (cut_loss, cut_gradients) = (step(module, captions, half=True) for module in (whole, cut))
    assert cut_loss == pytest.approx(loss, rel=1e-2)  # eight bits
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (gradients, cut_gradients))
    assert (one - other).norm() <= 0.05 * one.norm()


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ({"pool_type": "eos", "eos_id": 49407}, True),
        ({"pool_type": "eos", "eos_id": 0}, False),
        ({"pool_type": "last"}, False),
        ({"pool_type": "first"}, False),
        ({"no_causal_mask": True}, False),
    ],
    ids=str,
)
def test_a_tower_that_needs_whole_contexts_gets_them(tmp_path: Path, text: dict[str, Any], cuts: bool) -> None:
    model, captions = write_model(tmp_path, **text), batch()
    whole, cut = (CLIPModule(model, lr=1.0, warmup=0, trim_text=trims) for trims in (False, True))
    assert takes_short_texts(cut.clip) == cuts
    losses = [step(module, captions)[0] for module in (whole, cut)]
    assert losses[1] == (pytest.approx(losses[0], abs=1e-6) if cuts else losses[0])


def test_what_is_no_open_clip_is_left_alone(tmp_path: Path) -> None:
    class Own(open_clip.CLIP):
        def encode_text(self, text: torch.Tensor, normalize: bool = False) -> torch.Tensor:
            return super().encode_text(text.flip(1), normalize)

    clip = create_clip(write_model(tmp_path))
    assert takes_short_texts(clip)
    text = batch()["text"][:3]
    torch.testing.assert_close(encode_short(clip, text[:, :8]), clip.encode_text(text))
    clip.__class__ = Own
    assert not takes_short_texts(clip)
    assert not takes_short_texts(torch.nn.Linear(2, 2))


def test_copies_take_short_texts_too(tmp_path: Path) -> None:
    module = CLIPModule(write_model(tmp_path), lr=1.0, warmup=0)
    text, again = batch()["text"], copy.deepcopy(module)  # as a moving average does
    with torch.no_grad():
        again.clip.positional_embedding.zero_()
        features = [each.clip(text=text[:3, :8])["text_features"] for each in (module, again)]
    assert not torch.allclose(*features)
