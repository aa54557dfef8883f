"""What was made of pictures by another version of the code that decodes them is made anew, never used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipsift_common.clip import LoadedCLIP
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from clipsift_common.images import decode_image
from clipsift_common.machine import Machine
from helpers.pictures import picture
from helpers.pools import sample
from helpers.tars import write_tar
from helpers.tiny_clip import wrapped_clip
from selection import selector
from selection.features import embed as embedding, target as targets, target_sets
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.selector import Selector
from selection.settings import Embedding, Selection, Teacher
from selection.subset import Subset

HALF = picture(9, (160, 160))[:2500] + b"\xff\xd9"  # closed by an end mark: most decoders make the rest grey
CPU = Machine(accelerator="cpu", devices=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> LoadedCLIP:
    return wrapped_clip(tmp_path_factory.mktemp("model"))


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The code as it was: half of a JPEG is a picture."""
    for module in (embedding, targets):
        monkeypatch.setattr(module, "pair_image", lambda data, **_: decode_image(data))
    for module in (selector, embedding, targets, target_sets):
        monkeypatch.setattr(module, "DECODING", 1)
    return monkeypatch


def select(pool: Path, out: Path, clip: LoadedCLIP) -> Path:
    steps = [{"score": "clip_score", "keep": 1.0}]
    settings = Selection(Teacher("m", "x"), None, steps, embedding=Embedding(4, 0))
    return Selector(settings, Pool(str(pool)), out, pool / "cache", 0, CPU, lambda: clip, max_loss=0.5).run()


def write(pool: Path) -> Path:
    write_tar(pool / "0.tar", [*sample("a", 1), *sample("half", 2, jpg=HALF), *sample("c", 3)])
    return pool


def test_a_selection_of_before_is_refused_and_its_features_are_not_used(
    tmp_path: Path, clip: LoadedCLIP, before: pytest.MonkeyPatch
) -> None:
    pool = write(tmp_path / "pool")
    assert len(Subset.load(select(pool, tmp_path / "run", clip))) == 3
    before.undo()
    with pytest.raises(ClipsiftError, match=r"made with other settings \(the code of decoding\); use another --out"):
        select(pool, tmp_path / "run", clip)
    assert len(Subset.load(select(pool, tmp_path / "other", clip))) == 2
    assert read_json(tmp_path / "other/selection/data_report.json")["lost"] == {"truncated_image": 1}


def test_a_folder_of_features_of_before_is_not_gone_on_with(
    tmp_path: Path, clip: LoadedCLIP, before: pytest.MonkeyPatch
) -> None:
    index = PoolIndex.build(Pool(str(write(tmp_path / "pool"))), tmp_path / "cache")
    embedding.embed(index, clip, tmp_path / "f", "x", CPU, 4)
    before.undo()
    with pytest.raises(ClipsiftError, match="version of decoding 1, not 2; they are never mixed: take another folder"):
        embedding.embed(index, clip, tmp_path / "f", "x", CPU, 4)


def test_a_target_of_before_is_made_anew(
    tmp_path: Path, clip: LoadedCLIP, before: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in (("a", picture(1)), ("half", HALF), ("c", picture(3)), ("d", b"none")):
        (folder / f"{name}.jpg").write_bytes(data)

    def rows() -> np.ndarray:
        return targets.load_target(str(folder), clip, "x", tmp_path / "cache", torch.device("cpu")).numpy()

    first = rows()
    assert len(first) == 3
    before.undo()
    caplog.clear()
    np.testing.assert_allclose(rows(), first[[0, 1]], atol=1e-5)
    assert f"pictures: 2 of 4 pictures are left out (first: {folder}/d.jpg, broken_image)" in caplog.text


def test_a_target_of_several_sets_of_before_is_not_gone_on_with(
    tmp_path: Path, clip: LoadedCLIP, before: pytest.MonkeyPatch
) -> None:
    name, keys = next((name, keys) for name, keys in target_sets.target_sets().items() if len(keys) < 30)
    for number, key in enumerate(keys):
        folder = tmp_path / "data" / f"wds_{key.replace('/', '-')}" / "train"
        folder.mkdir(parents=True)
        (folder / "a.jpg").write_bytes(picture(number))
    where = (tmp_path / "data", clip, tmp_path / "out", torch.device("cpu"))
    assert len(target_sets.embed_target(name, *where)) == len(keys)
    before.undo()
    with pytest.raises(ClipsiftError, match="of another teacher, target or release; use another --out"):
        target_sets.embed_target(name, *where)
