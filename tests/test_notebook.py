"""The Python of docs/notebook.md does what the page says, in at most ten lines a task."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import open_clip
import open_clip_train.data
import pytest

from helpers.evaluation_sets import write_random_task
from helpers.features import unit_array
from helpers.pools import write_pool
from helpers.program import REPOSITORY
from helpers.tiny_clip import write_architecture

PAGE = REPOSITORY / "docs" / "notebook.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
KEPT = (3, 5, 8, 8, 11)  # uids of the text file; one of them twice
# What the page's architecture is here.
PLACES = {'"ViT-B-32", pretrained="openai"': '"ARCHITECTURE"', '"ViT-B-32"': '"ARCHITECTURE"', "workers=2": "workers=0"}


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All blocks, run one after the other as the cells of a notebook; the names that were known after each."""
    folder = tmp_path_factory.mktemp("notebook")
    architecture = write_architecture(folder)
    open_clip.add_model_config(architecture)
    rng = np.random.default_rng(0)
    for name, rows in (("image", 200), ("text", 200), ("target", 5)):
        np.save(folder / f"{name}.npy", unit_array(rng, rows, 16))
    (folder / "uids.txt").write_text("".join(f"{uid:032x}\n" for uid in KEPT))
    write_pool(folder / "pool", {"00000000": 9, "00000001": 6})
    write_random_task(folder / "evalsets" / "wds_vtab-dtd_test")
    names: dict[str, Any] = {}
    after = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(open_clip_train.data, "filter_no_caption_or_no_image", lambda sample: "txt" in sample)
        for block in BLOCKS:
            for name, here in PLACES.items():
                block = block.replace(name, here.replace("ARCHITECTURE", architecture.stem))
            exec(compile(block, PAGE.name, "exec"), names)
            after.append(names | {"filter": open_clip_train.data.filter_no_caption_or_no_image})
    return after


def test_every_task_fits_in_ten_lines() -> None:
    assert len(BLOCKS) == 7
    assert all(len(block.strip().splitlines()) <= 10 for block in BLOCKS)


def test_scores_keep_30_percent(notebook: list[dict[str, Any]]) -> None:
    names = notebook[0]
    image, text = names["image"].astype(np.float64), names["text"].astype(np.float64)
    logits = image @ text.T / 0.01
    own = np.diag(logits)
    losses = (np.logaddexp.reduce(logits, 1) - own + np.logaddexp.reduce(logits, 0) - own) / 2  # of one batch of all
    np.testing.assert_allclose(names["scores"], -0.01 * losses, atol=1e-5)
    assert set(names["rows"]) == set(np.argsort(losses)[:60])


def test_a_recipe_keeps_rows_of_the_arrays(notebook: list[dict[str, Any]]) -> None:
    names = notebook[1]
    first = np.argsort(-notebook[0]["scores"])[:90]
    nearest = np.abs(names["image"] @ target().T).max(1)
    assert set(names["rows"]) == set(first[np.argsort(-nearest[first])[:60]])


def target() -> np.ndarray:
    rng = np.random.default_rng(0)
    return [unit_array(rng, rows, 16) for rows in (200, 200, 5)][2]


def test_uids_become_a_subset_file(notebook: list[dict[str, Any]]) -> None:
    assert notebook[2]["subset"].uids["f1"].tolist() == sorted(KEPT)


def test_a_loop_sees_the_kept_samples_alone(notebook: list[dict[str, Any]]) -> None:
    batches, batch = notebook[3]["batches"], notebook[3]["batch"]
    assert set(batch["uid"][:, 1].tolist()) <= set(KEPT)
    assert batch["image"].shape[0] == batch["text"].shape[0] == 16
    assert len(batches) == 0  # all 4 were given out
    assert notebook[3]["pixels"].abs().max() < 3


def test_a_webdataset_pipeline_keeps_the_same_samples(notebook: list[dict[str, Any]]) -> None:
    in_pool = [f"{shard:08d}{row:04d}" for shard, rows in ((0, 9), (1, 6)) for row in range(rows)]
    assert notebook[4]["keys"] == [in_pool[uid - 1] for uid in sorted(KEPT)]
    wanted = notebook[5]["filter"]
    samples = [{"json": f'{{"uid": "{uid:032x}"}}'.encode(), "txt": b"a"} for uid in range(1, 16)]
    assert [number for number, sample in enumerate(samples, start=1) if wanted(sample)] == sorted(set(KEPT))
    assert not wanted({"json": samples[2]["json"]})  # open_clip's own test still counts


def test_a_model_object_is_evaluated(notebook: list[dict[str, Any]]) -> None:
    assert list(notebook[6]["scores"]) == ["vtab/dtd"]
    assert 0 <= notebook[6]["scores"]["vtab/dtd"] <= 1
