"""The example runs on a handful of pictures with a model folder, as its text says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import open_clip
import pytest
import torch

from clipsift_common.clip import create_clip
from clipsift_common.errors import ClipsiftError
from helpers.pictures import picture
from helpers.program import REPOSITORY
from training.export import export_model

EXAMPLE = REPOSITORY / "examples" / "score_pictures.py"
ARCHITECTURE = str(EXAMPLE.parents[1] / "configs" / "model" / "demo.json")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("score_pictures", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs and a teacher that knows nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, caption in enumerate(("a red cat", "a photo", "two dogs")):
        (folder / f"{number}.jpg").write_bytes(picture(number))
        (folder / f"{number}.txt").write_text(caption)
    torch.manual_seed(0)
    open_clip.add_model_config(ARCHITECTURE)
    clip = create_clip(ARCHITECTURE)
    export_model(clip, ARCHITECTURE, folder / "model", clip.state_dict())
    return folder


def test_pictures_are_scored(example: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example.main([str(folder), "--model", str(folder / "model"), "--target", str(folder)])
    head, names, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("3 pairs")
    assert names.split("  ")[-1].strip() == "caption"
    scores = [[float(number) for number in row.split()[:4]] for row in rows]
    assert [row[1] for row in scores] == sorted((row[1] for row in scores), reverse=True)
    for clip, loss, normaliser, near in scores:
        assert loss == pytest.approx(clip - normaliser, abs=2e-4)
        assert loss <= 0
        assert near == pytest.approx(1, abs=1e-3)  # the target is the pictures themselves
    assert any("a photo" in row for row in rows)


def test_a_picture_without_a_caption_is_named(example: ModuleType, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lonely.jpg").write_bytes(picture(1))
    with pytest.raises(ClipsiftError, match=r"lonely\.txt: is missing"):
        example.main([str(tmp_path), "--model", str(folder / "model")])
