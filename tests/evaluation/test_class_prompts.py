from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from evaluation.class_prompts import class_prompt_features
from helpers.colours import toy_clip

CPU = torch.device("cpu")


def test_prompts_are_normalised_averaged_and_normalised_again() -> None:
    spec = find_spec("clip_benchmark")
    assert spec is not None
    datasets = Path(str(spec.origin)).parent / "datasets"
    names = json.loads((datasets / "en_classnames.json").read_text())["caltech101_vtab"]
    templates = json.loads((datasets / "en_zeroshot_classification_templates.json").read_text())["caltech101"]
    clip = toy_clip()
    expected = []
    for name in names:
        tokens = clip.tokenizer([template.format(c=name) for template in templates])
        rows = clip.model.encode_text(tokens).detach().numpy()  # type: ignore[operator]
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
        expected.append(mean / np.linalg.norm(mean))
    np.testing.assert_allclose(class_prompt_features("vtab/caltech101", clip, CPU).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("key", ["flickr30k", "nothing"])
def test_a_task_without_class_names_is_refused(key: str) -> None:
    with pytest.raises(ClipsiftError, match=key):
        class_prompt_features(key, toy_clip(), CPU)
