from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipsift_common.clip import LoadedCLIP, create_clip, evaluation_transform, get_tokenizer
from clipsift_common.errors import ClipsiftError
from clipsift_common.images import decode_image
from evaluation import TASKS
from helpers.pictures import picture
from helpers.tars import write_tar
from selection.features import target_sets
from selection.features.embed import embed_images
from selection.features.target import load_target
from selection.features.target_sets import embed_target

MODEL = str(Path(__file__).resolve().parents[2] / "configs/model/demo.json")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip() -> LoadedCLIP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_clip(MODEL).eval()
    return LoadedCLIP(model, evaluation_transform(model), get_tokenizer(MODEL), "tiny")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards in ``train`` beside test shards; a folder of pictures, one of them broken."""
    monkeypatch.setattr(target_sets, "target_sets", lambda: {"two": ["vtab/dtd", "cars"]})
    for split, seeds in (("train", (0, 1, 2)), ("test", (7, 8))):
        members = [(f"{seed}.jpg", picture(seed)) for seed in seeds]
        write_tar(tmp_path / "data" / "wds_vtab-dtd" / split / "0.tar", [*members, ("0.cls", b"0")])
    cars = tmp_path / "data" / "wds_cars_train"
    cars.mkdir()
    (cars / "a.png").write_bytes(picture(3, format="PNG"))
    (cars / "b.jpg").write_bytes(picture(4)[:60])
    return tmp_path / "data"


def test_the_list_is_the_papers() -> None:
    target24 = target_sets.target_sets()["target24"]
    assert len(set(target24)) == 24
    assert set(target24) - set(TASKS) == {"flickr8k"}
    assert {TASKS[key].kind for key in target24 if key in TASKS} == {"zeroshot"}


def test_features_of_the_train_images_become_a_target(data: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    files = embed_target("two", data, clip, tmp_path / "out", CPU)
    assert [file.name for file in files] == ["wds_vtab-dtd.npy", "wds_cars.npy"]
    pictures = [*(picture(seed) for seed in (0, 1, 2)), picture(3, format="PNG")]
    expected = embed_images(clip, map(decode_image, pictures), CPU)
    parts = [np.load(file) for file in files]
    assert parts[0].dtype == np.float16
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-3)
    loaded = load_target(str(tmp_path / "out"), None, "l14", tmp_path, CPU)
    assert loaded.shape == (4, expected.shape[1])
    files[1].unlink()
    with pytest.raises(ClipsiftError, match=r"lacks wds_cars\.npy; let clipsift target finish"):
        load_target(str(tmp_path / "out"), None, "l14", tmp_path, CPU)
    before = files[0].stat().st_mtime_ns
    embed_target("two", data, clip, tmp_path / "out", CPU)
    assert files[1].is_file()
    assert files[0].stat().st_mtime_ns == before


def test_what_is_wrong_is_said_before_anything_is_computed(data: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match=r"is named three \(there are two\)"):
        embed_target("three", data, clip, tmp_path / "out", CPU)
    (data / "wds_cars_train").rename(data / "elsewhere")
    (data / "wds_vtab-dtd" / "train").rename(data / "gone")  # what is left are test images
    with pytest.raises(ClipsiftError, match="has no train images of wds_vtab-dtd, wds_cars"):
        embed_target("two", data, clip, tmp_path / "out", CPU)
    assert not (tmp_path / "out").exists()
    (data / "elsewhere").rename(data / "wds_cars")
    (data / "wds_cars" / "a.png").unlink()
    (data / "gone").rename(data / "wds_vtab-dtd" / "train")
    embedded = tmp_path / "out"
    with pytest.raises(ClipsiftError, match="wds_cars has no picture that can be read"):
        embed_target("two", data, clip, embedded, CPU)
    other = LoadedCLIP(clip.model, clip.preprocess, clip.tokenizer, "other")
    with pytest.raises(ClipsiftError, match="features of another teacher"):
        embed_target("two", data, other, embedded, CPU)
