"""subset, explain and reshard, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsift_app.program import run_verb
from helpers.pictures import picture
from helpers.workspace import write_workspace
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from selection.uids import format_uids


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``a`` and ``b`` that each keep half of 72 samples at random."""
    folder = tmp_path_factory.mktemp("tools")
    write_workspace(folder)
    common = [f"--config={folder / 'config.yaml'}", "--selection.teacher=null", f"--cache={folder / 'cache'}"]
    for seed, name in enumerate("ab"):
        steps = "--selection.steps=[{score: random, keep: 0.5}]"
        arguments = [*common, steps, f"--out={folder / name}", f"--seed_everything={seed}", "--data.workers=0"]
        assert run_verb("select", arguments) == 0
    return folder


def kept(folder: Path) -> Subset:
    return Subset.load(folder / "selection" / "subset.npy")


def test_subset_algebra(workspace: Path, tmp_path: Path) -> None:
    a, b = str(workspace / "a"), str(workspace / "b" / "selection" / "subset.npy")
    one, other = kept(workspace / "a"), kept(workspace / "b")
    for verb, expected in (("union", one | other), ("intersect", one & other), ("subtract", one - other)):
        assert run_verb("subset", [verb, a, b, f"--out={tmp_path / verb}.npy"]) == 0
        assert Subset.load(tmp_path / f"{verb}.npy") == expected


def test_subset_tables(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(workspace / "a"), str(workspace / "b")
    assert run_verb("subset", ["info", f"{a}/selection/subset.npy"]) == 0
    assert " 36 " in capsys.readouterr().out
    assert run_verb("subset", ["compare", a, b]) == 0
    printed = capsys.readouterr().out
    one, other = kept(workspace / "a"), kept(workspace / "b")
    assert f"{len(one & other) / len(one | other):.4f}" in printed
    assert "rank correlation" in printed
    assert " 72 " in printed


def test_explain_shows_the_picture(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uid = format_uids(kept(workspace / "a").uids)[0]
    number = int(uid, 16)
    assert run_verb("explain", [uid, "--run", str(workspace / "a")]) == 0
    printed = capsys.readouterr().out
    assert "kept" in printed
    assert f"caption  picture number {number}" in printed
    assert (workspace / "a" / "explain" / f"{uid}.jpeg").read_bytes() == picture(number)


def test_reshard_makes_a_pool(workspace: Path, tmp_path: Path) -> None:
    arguments = [f"--pool={workspace / 'pool'}", f"--subset={workspace / 'a'}", f"--out={tmp_path}", "--workers=0"]
    machine = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
    assert run_verb("reshard", [*arguments, "--shard_size=20", *machine]) == 0
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["00000000.tar", "00000001.tar"]
    index = PoolIndex.build(Pool(str(tmp_path)), tmp_path / "index")
    assert Subset(index.uids) == kept(workspace / "a")


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("subset", ["info"], "say clipsift subset info|compare"),
        ("subset", ["onion", "x"], "say clipsift subset"),
        ("subset", ["info", "nowhere.npy"], "nowhere.npy does not exist"),
        ("explain", ["ff", "--run", "nowhere"], "has no finished selection"),
        ("reshard", ["--pool=nowhere", "--subset=x", "--out=y"], "does not exist"),
    ],
)
def test_what_is_wrong_is_one_line(
    capsys: pytest.CaptureFixture[str], verb: str, arguments: list[str], words: str
) -> None:
    assert run_verb(verb, arguments) == 1
    printed = capsys.readouterr().err
    assert words in printed
    assert printed.count("\n") == 1


def test_a_union_needs_a_place(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("subset", ["union", str(workspace / "a"), str(workspace / "b")]) == 1
    assert "--out is missing" in capsys.readouterr().err
