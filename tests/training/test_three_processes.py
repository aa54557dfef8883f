"""The rest of the resume matrix: stopped anywhere, also where a pass ends; on with three processes, or after three."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from three_ranks import CELLS, NUM_KEPT, STOP, train

from clipsift_common.machine import Machine
from helpers.machines.ranks import run_ranks
from helpers.training_run import uid_of
from selection.subset import Subset
from selection.uids import parse_uids

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("three_ranks.py")
ALONE = Machine("cpu", 1)


@pytest.fixture(scope="module")
def one(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    Subset(parse_uids([uid_of(number) for number in range(NUM_KEPT)])).save(workspace / "even.npy")
    return train(workspace, tmp_path_factory.mktemp("one"), ALONE)


@pytest.fixture(scope="module")
def out(workspace: Path, one: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three")
    for stop, _ in CELLS:
        train(workspace, folder / f"from{stop}", ALONE, stop=stop)
    run_ranks(SCRIPT, [workspace, folder], 3, timeout=300)
    return folder


def joined(out: Path, name: str) -> tuple[list[Any], list[float]]:
    """Uids of the global batches and their losses."""
    parts = [json.loads((out / f"{name}.{rank}.json").read_text()) for rank in range(3)]
    uids = [[*first, *second, *third] for first, second, third in zip(*(part["uids"] for part in parts))]
    return uids, [sum(losses) / 3 for losses in zip(*(part["loss"] for part in parts))]


def test_a_pass_holds_every_sample_once(one: dict[str, Any]) -> None:
    for first in range(0, len(one["uids"]), 2):
        seen = Counter(tuple(uid) for batch in one["uids"][first : first + 2] for uid in batch)
        assert (len(seen), set(seen.values())) == (NUM_KEPT, {1})


@pytest.mark.parametrize(("stop", "workers"), CELLS)
def test_three_go_on_where_one_stopped(out: Path, one: dict[str, Any], stop: int, workers: int) -> None:
    uids, losses = joined(out, f"from{stop}")
    assert uids == one["uids"][stop:]
    assert losses == pytest.approx(one["loss"][stop:], abs=1e-5)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_one_goes_on_where_three_stopped(
    out: Path, one: dict[str, Any], workspace: Path, tmp_path: Path, workers: int
) -> None:
    uids, losses = joined(out, "three")
    assert uids == one["uids"][:STOP]
    assert losses == pytest.approx(one["loss"][:STOP], abs=1e-5)
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "last.ckpt").write_bytes((out / "three" / "training" / "last.ckpt").read_bytes())
    rest = train(workspace, tmp_path, ALONE, workers)
    assert rest["uids"] == one["uids"][STOP:]
    assert rest["loss"] == pytest.approx(one["loss"][STOP:], abs=1e-5)
