from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from clipsift_common.clip import LoadedCLIP, create_clip, evaluation_transform, get_tokenizer
from clipsift_common.errors import ClipsiftError
from clipsift_common.images import decode_image
from evaluation import TASKS
from helpers.mutations import Trap
from helpers.pictures import picture
from helpers.program import REPOSITORY
from helpers.tars import write_tar
from selection.features import target_sets
from selection.features.embed import embed_images
from selection.features.target import load_target
from selection.features.target_sets import embed_target

MODEL = str(REPOSITORY / "configs/model/demo.json")
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


def test_one_set_becomes_one_file(data: Path, clip: LoadedCLIP, tmp_path: Path) -> None:
    (folder,) = embed_target("two", data, clip, tmp_path / "folder", CPU)[:1]
    (file,) = embed_target("two", data, clip, tmp_path / "out.npy", CPU)
    assert file == tmp_path / "out.npy"
    assert np.array_equal(np.load(file)[:3], np.load(folder))
    assert len(np.load(file)) == 4
    assert {path.name for path in tmp_path.glob("out*")} == {"out.npy", "out.json"}
    before = file.stat().st_mtime_ns
    assert embed_target("two", data, clip, tmp_path / "out.npy", CPU) == [file]
    assert file.stat().st_mtime_ns == before
    other = LoadedCLIP(clip.model, clip.preprocess, clip.tokenizer, "other")
    with pytest.raises(ClipsiftError, match="features of another teacher"):
        embed_target("two", data, other, tmp_path / "out.npy", CPU)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"features": rows}])
def test_files_of_torch_are_targets(tmp_path: Path, dtype: torch.dtype, wrap: Callable[[torch.Tensor], object]) -> None:
    rows = torch.nn.functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), dim=1).to(dtype)
    for number, part in enumerate(rows.split(2)):  # as DataComp's five files of ImageNet
        torch.save(wrap(part.clone()), tmp_path / f"in1k_clip_vit_l14_{number}.pt")
    loaded = load_target(str(tmp_path), None, "l14", tmp_path, CPU)
    assert torch.equal(loaded.double(), rows.double())


def test_a_file_of_torch_that_is_no_tensor_is_refused_and_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for name, content in {
        "bad": Trap(mark),
        "two": {"a": torch.ones(1, 2), "b": torch.ones(1, 2)},
        "word": "x",
    }.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(ClipsiftError, match=rf"{name}\.pt cannot be read"):
            load_target(str(tmp_path / f"{name}.pt"), None, "l14", tmp_path, CPU)
    for name, data in {"empty": b"", "page": b"<html>", "cut": (tmp_path / "two.pt").read_bytes()[:200]}.items():
        (tmp_path / f"{name}.pth").write_bytes(data)
        with pytest.raises(ClipsiftError, match=rf"{name}\.pth cannot be read"):
            load_target(str(tmp_path / f"{name}.pth"), None, "l14", tmp_path, CPU)
    assert not mark.exists()
