from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from helpers.bundle import Bundle
from selection.features import language
from selection.registry import FeatureBlock
from selection.runner import Recipe
from selection.scores import get_score
from selection.scores.datacomp_basic import num_tokens
from selection.scores.datacomp_image_based import nearest_by_product


def test_golden_clusters(bundle: Bundle) -> None:
    centroids = torch.from_numpy(bundle.array("targets/pool_centroids_l14.npy"))
    found = nearest_by_product(bundle.features("l14_img"), centroids)
    assert np.array_equal(found.numpy(), bundle.array("golden/image_based_cluster_of_row.npy"))
    hit = nearest_by_product(bundle.target("imagenet_l14"), centroids).unique()
    assert np.array_equal(hit.numpy(), np.sort(bundle.array("golden/image_based_target_clusters.npy")))


def image_based(bundle: Bundle) -> dict[str, Any]:
    targets = bundle.folder / "targets"
    places = {"centroids": targets / "pool_centroids_l14.npy", "target": targets / "imagenet_l14_img.npy"}
    return {"score": "datacomp_image_based", "threshold": 1} | {name: str(path) for name, path in places.items()}


CAPTION = {"score": "datacomp_caption", "language": "off", "threshold": 1}
CLIP = {"score": "metadata_column", "column": "clip_l14_similarity_score", "keep": 0.3, "ties": "datacomp"}


def test_golden_sets(bundle: Bundle) -> None:
    pool = str(bundle.folder / "pool")
    recipes: dict[str, list[dict[str, Any]]] = {
        "datacomp_basic_no_language": [{"score": "datacomp_basic", "language": False, "threshold": 1}],
        "datacomp_caption_filter_no_language": [CAPTION],
        "datacomp_image_based_no_language": [CAPTION, image_based(bundle)],
        "datacomp_image_based_and_clip_l14_30": [CLIP, CAPTION, image_based(bundle)],
    }
    for name, steps in recipes.items():
        subset = Recipe(steps).run(pool, "l14")
        assert np.array_equal(subset.uids, bundle.array(f"golden/sets/{name}.npy")), name


def block(captions: list[str | None], width: list[float], height: list[float]) -> FeatureBlock:
    empty = torch.empty(len(captions), 0)
    columns = {"text": np.array(captions, object), "original_width": width, "original_height": height}
    return FeatureBlock(empty, empty, columns={name: np.array(values) for name, values in columns.items()})


def test_the_rules_at_their_limits() -> None:
    fine = "a red car"
    captions = [fine, fine, fine, fine, "red cars", "a b c", None, fine]
    sizes = [(200, 600), (199, 300), (200, 601), (0, 0), (300, 300), (300, 300), (300, 300), (np.nan, 300)]
    samples = block(captions, [w for w, _ in sizes], [h for _, h in sizes])
    assert get_score("datacomp_basic")(samples, language="off").tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert get_score("datacomp_caption")(samples, language="off").tolist() == [1, 1, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("caption", "count"),
    [("", 0), ("one", 1), ("a\u00a0b", 1), (" a \t b\0c ", 3), ("a\n", 2), ("\n\n", 2), ("a \n b", 3)],
)
def test_tokens_are_those_of_fasttext(caption: str, count: int) -> None:
    assert num_tokens(caption) == count


def test_the_language_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for fastText: it is asked about the captions that pass the rules, newlines as spaces."""
    model = tmp_path / "lid.176.bin"
    samples = block(["a red car", "ein rotes\nAuto", "short"], [300] * 3, [300] * 3)
    with pytest.raises(ClipsiftError, match=r"lid\.176\.bin does not exist"):
        get_score("datacomp_basic")(samples, language=str(model))
    model.touch()
    monkeypatch.setitem(sys.modules, "fasttext", None)
    with pytest.raises(ClipsiftError, match="needs the package fasttext"):
        get_score("datacomp_basic")(samples, language=str(model))
    asked: list[str] = []

    def predict(captions: list[str]) -> tuple[list[list[str]], None]:
        asked.extend(captions)
        return [["__label__de" if "rotes" in caption else "__label__en"] for caption in captions], None

    monkeypatch.setitem(
        sys.modules, "fasttext", SimpleNamespace(load_model=lambda path: SimpleNamespace(predict=predict))
    )
    language._model.cache_clear()
    assert get_score("datacomp_basic")(samples, language=str(model)).tolist() == [1, 0, 0]
    assert asked == ["a red car", "ein rotes Auto"]
    language._model.cache_clear()


def test_missing_columns_and_centroids_of_another_width_are_named() -> None:
    empty = torch.empty(2, 0)
    with pytest.raises(ClipsiftError, match=r"no column text \(it has: none\)"):
        get_score("datacomp_caption")(FeatureBlock(empty, empty), language="off")
    with pytest.raises(ValueError, match="centroids has 3 dimensions"):
        nearest_by_product(torch.eye(2), torch.eye(3))
