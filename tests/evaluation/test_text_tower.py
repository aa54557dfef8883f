"""Texts without their padding get the features that whole contexts give; where they would not, nothing is cut."""

from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP

from clipsift_common.clip import LoadedCLIP
from clipsift_common.towers.text import takes_short_texts
from evaluation.encoder import Encoder
from evaluation.text_tower import TextTower

VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TEXTS = ["a", "a photo of a dog", "", "an old map, folded twice", "word " * 200, "a photo of a cat", "dog " * 74]


def make(kind: type = CLIP, **text: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    model = kind(16, VISION, TEXT | text).eval()
    torch.nn.init.normal_(model.positional_embedding if kind is CLIP else model.text.positional_embedding)
    return model


class Watched(TextTower):
    """Remembers the shapes that the model was given."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__(model)
        self.shapes: list[tuple[int, ...]] = []

    def _encode(self, tokens: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(tokens.shape))
        return super()._encode(tokens)


@pytest.mark.parametrize(
    ("model", "is_cut"),
    [
        (make(), True),
        (make(pool_type="eos", eos_id=49407), True),
        (make(pool_type="last"), False),
        (make(no_causal_mask=True), False),
        (make(CustomTextCLIP), False),
        (make(CustomTextCLIP, embed_cls=True, pool_type="last"), False),
    ],
    ids=["argmax", "eos", "last", "not causal", "custom", "coca"],
)
@torch.inference_mode()
def test_same_features_as_whole_contexts(model: torch.nn.Module, is_cut: bool) -> None:
    tokens = open_clip.SimpleTokenizer(context_length=77)(TEXTS)
    whole = model.encode_text(tokens)
    tower, features = Watched(model), torch.full_like(whole, torch.nan)
    for rows, part in tower.encode(tokens):
        features[rows] = part
    assert (features - whole).abs().max() < 1e-6 * whole.abs().max()
    lengths = {shape[1] for shape in tower.shapes}
    assert lengths == ({2, 3, 7, 8, 76, 77} if is_cut else {77})
    assert takes_short_texts(model) == is_cut
    assert torch.equal(model.encode_text(tokens), whole)  # the model is as it was


def test_encoder_keeps_the_order_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.encoder.TEXT_WINDOW", 3)
    monkeypatch.setattr("evaluation.text_tower.TEXT_BATCH", 2)
    model, tokenizer = make(), open_clip.SimpleTokenizer(context_length=77)
    with torch.inference_mode():
        whole = model.encode_text(tokenizer(TEXTS))
        features = Encoder(LoadedCLIP(model, lambda image: image, tokenizer, ""), "fp32").texts(TEXTS)
    assert torch.allclose(features, torch.nn.functional.normalize(whole, dim=-1), atol=1e-6)
