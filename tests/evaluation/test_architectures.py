"""Architectures other than CLIP's own go through the same path, and score what their own towers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipsift_common.clip import LoadedCLIP, create_clip, load_clip
from clipsift_common.images import decode_image
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate
from helpers.colours import FLICKR, picture, write_flickr
from helpers.evaluation_sets import TEMPLATES, write_task

VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "red", "green", "blue", "colour"]
NAMES = ["red", "green", "blue"]
COLOURS = ["red", "green", "blue", "white"] * 3


def write_bert(folder: Path) -> str:
    """A text tower as it lies on the hub, with its own tokenizer."""
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = {"model_type": "bert", "vocab_size": len(WORDS), "max_position_embeddings": 32, "pad_token_id": 0} | sizes
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def architecture(name: str, folder: Path) -> dict[str, Any]:
    base: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    if name == "clip":
        return base
    if name == "resnet":
        return base | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16}}
    if name == "sigmoid":  # SigLIP's; a file of that name would get a tokenizer from the network
        text = TEXT | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
        return base | {"custom_text": True, "init_logit_bias": -10, "text_cfg": text}
    if name == "coca":
        several = {"width": 32, "context_length": 16, "vocab_size": 49408, "layers": 1, "heads": 2}
        decoder = several | {"mlp_ratio": 2, "dim_head": 16, "n_queries": 8, "attn_pooler_heads": 2}
        vision = VISION | {"output_tokens": True, "attentional_pool": True, "attn_pooler_heads": 2}
        text = TEXT | {"embed_cls": True, "output_tokens": True}
        return base | {"custom_text": True, "multimodal_cfg": decoder, "vision_cfg": vision, "text_cfg": text}
    bert = write_bert(folder / "bert")
    text = {"hf_model_name": bert, "hf_tokenizer_name": bert, "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"}
    return base | {"text_cfg": text | {"context_length": 16}}


@torch.no_grad()
def by_hand(clip: LoadedCLIP, labels: list[int]) -> tuple[float, float]:
    """acc1 of the colours, and the share of Flickr's images that find their caption: one text and image at a time."""

    def text(words: str) -> np.ndarray:
        feature = clip.model.encode_text(clip.tokenizer([words]))[0].double().numpy()  # type: ignore[operator]
        return feature / np.linalg.norm(feature)

    def image(colour: str) -> np.ndarray:
        pixels: Image.Image = decode_image(picture(colour))
        feature = clip.model.encode_image(clip.preprocess(pixels)[None])[0].double().numpy()  # type: ignore[operator]
        return feature / np.linalg.norm(feature)

    classes = [np.mean([text(line.replace("{c}", name)) for line in TEMPLATES], axis=0) for name in NAMES]
    classifier = np.stack([feature / np.linalg.norm(feature) for feature in classes])
    hits = [int(np.argmax(classifier @ image(colour))) == label for colour, label in zip(COLOURS, labels)]
    captions = np.stack([text(name) for name in NAMES])
    found = [int(np.argmax(captions @ image(colour))) == number for number, colour in enumerate(NAMES)]
    return float(np.mean(hits)), float(np.mean(found))


@pytest.mark.parametrize("name", ["clip", "resnet", "sigmoid", "coca", "bert"])
def test_scores_are_the_towers(name: str, tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / f"toy-{name}.json"
    path.write_text(json.dumps(architecture(name, tmp_path)))
    torch.manual_seed(3)
    model = create_clip(str(path))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)  # untrained towers hardly tell two texts apart
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    clip = load_clip(str(path), str(tmp_path / "weights.pt"))

    labels = [number % 3 for number in range(len(COLOURS))]
    parts = [{"cls": str(label).encode(), "png": picture(colour)} for colour, label in zip(COLOURS, labels)]
    data = tmp_path / "data"
    write_task(data / TASKS["cifar10"].folder, parts, NAMES)
    write_flickr(data, [{"filename": f"{colour}.jpg", "raw": [colour]} for colour in NAMES])
    cifar, flickr = evaluate(clip, data, batch_size=5, workers=0, machine=machine)
    assert (cifar["key"], flickr["key"]) == ("cifar10", FLICKR.key)
    expected = by_hand(clip, labels)
    assert cifar["metrics"]["acc1"] == pytest.approx(expected[0])
    assert flickr["metrics"]["text_retrieval_recall@1"] == pytest.approx(expected[1])
