"""Set methods over files: the same rows whoever does the work, and those of the functions in memory."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from clipsift_common.distributed import gather_objects, rank, world_size
from clipsift_common.engines.base import Engine, Group, Part
from clipsift_common.errors import ClipsiftError
from helpers.machines.fake_group import FakeGroup
from selection.features.arrays import Arrays
from selection.methods import clipcov_by_class
from selection.methods.clipcov import clipcov
from selection.methods.semdedup import semdedup
from selection.methods.vas_d import vas_d
from selection.recipe.gather import PoolFeatures
from selection.recipe.step import Step
from selection.scores.vas import second_moment
from selection.shuffle import smallest
from selection.shuffle.cells import num_cells, split_clusters

CPU = torch.device("cpu")
SIZES = (40, 1, 130, 7, 60, 90)
METHODS: dict[str, dict[str, Any]] = {
    "semdedup": {"method": "semdedup", "epsilon": 0.3, "clusters": 12},
    "semdedup by centroids": {"method": "semdedup", "epsilon": 0.3, "centroids": "classes"},
    "clipcov": {"method": "clipcov", "classes": "classes", "count": 90, "block": 7},
    "vas_d": {"method": "vas_d", "count": 60, "steps": 9},
    "vas_d, shares": {"method": "vas_d", "count": 60, "steps": 9, "moment_share": 0.3},
}


class Scattered:
    """Every step by seven parts in any order, some of which begin, are killed, and begin again; all of it pickles."""

    def do(
        self,
        label: str,
        units: Sequence[Any],
        make: Callable[[Any], object],
        is_made: Callable[[Any], bool],
        size: Callable[[Any], int] = lambda unit: 1,
        counted: str = "units",
    ) -> None:
        parts = [Part(number, 7) for number in range(1, 8)]
        for part in random.Random(len(units)).sample(parts, 7):
            make, is_made = pickle.loads(pickle.dumps((make, is_made)))  # noqa: S301
            mine = part.share(units)
            Part(1, 1).do(label, mine[: len(mine) // 2], make, is_made)
            part.do(label, units, make, is_made, size, counted)


def pool() -> tuple[list[Arrays], dict[str, np.ndarray], torch.Tensor]:
    """Files around a few directions, some images twice, some rows unusable; which rows are left of all."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.nn.functional.normalize(torch.randn(9, 8, generator=generator), dim=1)
    near = classes[torch.randint(6, (sum(SIZES),), generator=generator)]
    rows = {}
    for name in ("image", "text"):
        noise = torch.randn(near.shape, generator=generator)
        rows[name] = torch.nn.functional.normalize(near + 0.3 * noise, dim=1).half().numpy()
    rows["image"][1::5] = rows["image"][: len(rows["image"][1::5]) * 5 : 5]
    rows["image"][50], rows["text"][60] = np.nan, 0
    bounds = np.cumsum([0, *SIZES])
    files = [Arrays(rows["image"][a:b], rows["text"][a:b]) for a, b in pairwise(bounds)]
    return files, rows, classes


def kept(settings_: dict[str, Any], folder: Path, engine: Engine) -> list[int]:
    """Rows of the pool that a method keeps when every ninth row has gone before."""
    files, _, classes = pool()
    starts = np.cumsum([0, *SIZES])
    masks = {
        number: np.arange(starts[number], starts[number + 1]) % 9 > 0
        for number in range(rank(), len(files), world_size())
    }
    features = PoolFeatures(files, CPU, lambda _: classes, folder, engine=engine)
    found = features.kept_rows(Step.parse(0, settings_), masks, sum(SIZES), seed=3)
    features.close()
    return sorted(
        row for part in gather_objects([s + starts[n] for n, s in found.items()]) for row in np.concatenate(part)
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_same_rows_whoever_does_the_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipcov_by_class, "UNIT_ROWS", 40)
    expected = kept(METHODS[name], tmp_path, Group())
    assert 0 < len(expected) < 280
    for size in (2, 3):
        group: FakeGroup[list[int]] = FakeGroup(size)
        found = group.run(lambda: kept(METHODS[name], tmp_path, Group()))
        assert found == [expected] * size
    assert kept(METHODS[name], tmp_path, Scattered()) == expected
    assert not list(tmp_path.rglob("*.npy"))


def left_rows(*towers: str) -> tuple[np.ndarray, list[torch.Tensor], torch.Tensor]:
    """The usable rows that :func:`kept` begins with, their features, and the classes."""
    _, arrays, classes = pool()
    good = np.arange(sum(SIZES)) % 9 > 0
    for tower in towers:
        norms = np.linalg.norm(arrays[tower].astype(np.float32), axis=1)
        good &= np.isfinite(norms) & (norms > 0)
    rows = np.flatnonzero(good)
    return rows, [torch.from_numpy(arrays[tower][rows]) for tower in towers], classes


def test_they_are_the_rows_of_the_functions_in_memory(tmp_path: Path) -> None:
    rows, (image,), classes = left_rows("image")
    mask = semdedup(image, classes, 0.3).numpy()
    assert kept(METHODS["semdedup by centroids"], tmp_path, Group()) == rows[mask].tolist()
    _, arrays, _ = pool()
    whole = torch.from_numpy(arrays["image"])
    moment = second_moment(whole[whole.isfinite().all(1)])
    for name, share in (("vas_d", 1.0), ("vas_d, shares", 0.3)):
        seed = Step.parse(0, METHODS[name]).seed(3)
        staying = vas_d(image, 60, 9, moment=moment, moment_share=share, seed=seed).numpy()
        assert kept(METHODS[name], tmp_path, Group()) == rows[staying].tolist()
    rows, (image, text), classes = left_rows("image", "text")
    picked = clipcov(image, text, classes, 90, 7).numpy()
    assert kept(METHODS["clipcov"], tmp_path, Group()) == sorted(rows[picked].tolist())


def test_what_an_option_or_a_unit_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match=r"selection: semdedup: epsilon 3\.0 is outside"):
        kept({"method": "semdedup", "epsilon": 3.0}, tmp_path, Group())
    with pytest.raises(ClipsiftError, match=r"selection: clipcov: size 400 is outside 1\.\.289"):
        kept({"method": "clipcov", "classes": "c", "count": 400}, tmp_path, Group())


@settings(deadline=None, max_examples=30)
@given(data=st.data(), num=st.integers(1, 60))
def test_the_nth_smallest(data: st.DataObject, num: int) -> None:
    values = data.draw(st.lists(st.floats(allow_nan=False), min_size=num, max_size=num))
    count = data.draw(st.integers(1, num))
    keys = smallest.ordered(np.array(values))
    assert np.array_equal(np.argsort(keys, kind="stable"), np.argsort(np.array(values), kind="stable"))
    key, needed = smallest.nth_smallest(lambda: np.array_split(keys, 3), count)
    expected = np.sort(keys)[count - 1]
    assert key == expected
    assert needed == count - np.count_nonzero(keys < expected)


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=20), data=st.data())
def test_clusters_are_split_in_proportion(sizes: list[int], data: st.DataObject) -> None:
    cells, rows = np.array(sizes), sum(sizes)
    present = int(np.count_nonzero(cells))
    clusters = data.draw(st.integers(present, max(present, rows)))
    found = split_clusters(clusters, cells)
    assert ((found >= 1) == (cells > 0)).all()
    assert (found <= cells).all()
    assert found.sum() <= clusters
    share = cells * max(0, clusters - present) / max(1, rows)
    assert (found <= 2 + share).all()
    assert [num_cells(number) for number in (1, 3, 4, 100, 50_000)] == [1, 3, 4, 20, 448]
