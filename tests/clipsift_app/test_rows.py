"""The rows of configs/reproduce: what their heads say, and a run of each in small."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks.flops import node_hours, tower_flops, training_flops
from clipsift_app.config_files import CONFIGS
from clipsift_app.includes import with_includes
from clipsift_app.parsing import parse_run
from clipsift_app.program import run_verb
from clipsift_app.published import STATUSES, check_row, publications, published
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from helpers.evaluation_sets import write_random_task
from helpers.features import unit_array
from helpers.pools import write_pool
from helpers.tiny_clip import ARCHITECTURE
from selection.subset import Subset
from selection.uids import format_uids, parse_uids

ROWS = sorted((CONFIGS / "reproduce").glob("*.yaml"))
NUM_ROWS = 52
NUM_PAIRS, WIDTH = 60, 8
# What makes a published recipe fit a pool of 60 pairs; fractions stay as they are.
SMALL = {"language": "off", "num_batches": 2, "steps": 3, "count": 40, "batch_size": 10}


def head(row: Path) -> str:
    lines = [line.removeprefix("#") for line in row.read_text().splitlines() if line.startswith("#")]
    return " ".join(" ".join(lines).split())


def merged(row: Path) -> dict[str, Any]:
    """The row and what it includes, one level deep, later files winning."""
    values: dict[str, Any] = {}
    for argument in with_includes([f"--config={row}"]):
        for key, value in yaml.safe_load(Path(argument.removeprefix("--config=")).read_text()).items():
            values[key] = values[key] | value if isinstance(values.get(key), dict) else value
    return values


def test_every_published_row_has_a_config_and_every_config_a_publication() -> None:
    assert [row.stem for row in ROWS] == sorted({entry.row for entry in publications()})
    assert len(ROWS) == NUM_ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.stem)
def test_the_head_says_what_is_published_and_what_it_costs(row: Path) -> None:
    values = merged(row)
    assert values["name"] == row.stem
    for entry in published(row.stem):
        assert f"{entry.source}, pool of {entry.pool}" in head(row)
        assert str(entry) in head(row)
    model, data = values["model"], values["data"]
    flops = training_flops(model["model"], data["samples_seen"], model.get("grad_checkpointing", False))
    hours = node_hours(flops)
    assert f"about {hours:.1f} h" in head(row) if hours >= 1 else f"about {60 * hours:.0f} min" in head(row)


def test_numbers_are_shares_with_a_status_and_only_verified_ones_are_facts() -> None:
    numbers = [number for entry in publications() for number in entry.numbers.values()]
    assert all(0 < number.value < 1 and number.status in STATUSES for number in numbers)
    assert {number.status for number in numbers if number.is_fact} == {"verified"}
    row = next(entry for entry in published("medium_s_cliploss_normsim") if entry.pool == "110 M")
    assert row.numbers["ImageNet"].value == pytest.approx(0.317)
    assert not row.numbers["Retrieval"].is_fact
    with pytest.raises(ClipsiftError, match="no published row"):
        check_row("mine")


def test_operations_of_the_towers() -> None:
    """open_clip's own table gives 14.78e9 for a pair of ViT-B-32."""
    assert sum(tower_flops("ViT-B-32")) == pytest.approx(14.78e9, rel=1e-3)
    assert training_flops("ViT-B-32", 10, grad_checkpointing=True) == pytest.approx(40 * 14.78e9, rel=1e-3)


def test_includes_come_first_and_are_relative_to_their_file(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part/a.yaml").write_text("include: [b.yaml]\nname: a\n")
    (tmp_path / "part/b.yaml").write_text("name: b\n")
    (tmp_path / "c.yaml").write_text("include: [part/a.yaml]\n")
    files = [tmp_path / "part/b.yaml", tmp_path / "part/a.yaml", tmp_path / "c.yaml"]
    found = with_includes(["--config", str(tmp_path / "c.yaml"), "--name=d"])
    assert found == [*(f"--config={file}" for file in files), "--name=d"]
    (tmp_path / "part/b.yaml").write_text("include: [../c.yaml]\n")
    with pytest.raises(ClipsiftError, match="includes itself"):
        with_includes([f"--config={tmp_path / 'c.yaml'}"])
    (tmp_path / "part/b.yaml").write_text("include: [nowhere.yaml]\n")
    with pytest.raises(ClipsiftError, match=r"nowhere\.yaml does not exist \(.*b\.yaml includes it"):
        with_includes([f"--config={tmp_path / 'c.yaml'}"])


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool with shards and metadata, targets and subset files by the names that the rows use."""
    folder = tmp_path_factory.mktemp("rows")
    write_pool(folder / "pool", {"00000000": NUM_PAIRS // 2, "00000001": NUM_PAIRS // 2})
    rng = np.random.default_rng(0)
    uids = [f"{number:032x}" for number in range(1, NUM_PAIRS + 1)]
    for part, rows in enumerate(np.split(np.arange(NUM_PAIRS), 2)):
        columns: dict[str, Any] = {"uid": [uids[row] for row in rows], "text": ["three words here"] * len(rows)}
        columns |= dict.fromkeys(("original_width", "original_height"), [300] * len(rows))
        for name in ("clip_b32_similarity_score", "clip_l14_similarity_score", "m_flyt"):
            columns[name] = rng.normal(size=len(rows)).astype(np.float32)
        (folder / "pool/metadata").mkdir(exist_ok=True)
        pq.write_table(pa.table(columns), folder / f"pool/metadata/{part}.parquet")
        names = [f"{teacher}_{tower}" for teacher in ("b32", "l14", "dfn_p") for tower in ("img", "txt")]
        np.savez(folder / f"pool/metadata/{part}.npz", **{name: unit_array(rng, len(rows), WIDTH) for name in names})
    for name in ("imagenet1k_l14", "imagenet1k_prompts_l14", "target24_l14/0", "target24_b32/0", "target24_dfn_p/0"):
        path = folder / f"targets/{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, unit_array(rng, 5, WIDTH))
    np.save(folder / "targets/pool_centroids_l14.npy", unit_array(rng, 2, WIDTH))
    for name in ("datacomp_medium_dfn_20m_inds", "datacomp_medium_hype_115622300_10p", "ours_20", "ours_10"):
        Subset(parse_uids(sorted(rng.choice(uids, 20, replace=False)))).save(folder / f"subsets/{name}.npy")
    write_random_task(folder / "eval" / "wds_imagenet1k_test")
    (folder / "tiny.json").write_text(json.dumps(ARCHITECTURE))
    return folder


def shrunk(step: dict[str, Any]) -> dict[str, Any]:
    small = {key: SMALL.get(key, value) for key, value in step.items()}
    return small | ({"of": shrunk(step["of"])} if isinstance(step.get("of"), dict) else {})


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.stem)
def test_a_row_runs_in_small(row: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    monkeypatch.setattr("training.fit.make_lone_trainer", None)  # no row trains a teacher
    out = workspace / "runs" / row.stem
    arguments = [f"--config={row}", "--pool=pool", "--eval=eval", f"--out={out}", "--cache=cache"]
    steps = parse_run(arguments).selection.steps
    arguments += [f"--selection.steps={json.dumps([shrunk(step) for step in steps])}", "--model.model=tiny.json"]
    arguments += ["--data.samples_seen=32", "--data.global_batch=16", "--data.workers=0", "--evaluation.workers=0"]
    arguments += ["--model.grad_checkpointing=false", "--trainer.accelerator=cpu", "--trainer.devices=1"]
    assert run_verb("reproduce", [*arguments, "--trainer.precision=32-true"]) == 0
    about = read_json(out / "selection/subset.json")
    assert 0 < about["num_kept"] <= NUM_PAIRS
    assert len(format_uids(Subset.load(out / "selection/subset.npy").uids)) == about["num_kept"]
    assert read_json(out / "training/training.json")["steps"] == 2
    assert read_json(out / "evaluation/summary.json")["num_scored"] == 1
    page = re.sub(r"\s+", " ", (out / "report/index.html").read_text())
    for entry in published(row.stem):
        assert entry.method.replace('"', "&#34;").replace("'", "&#39;") in page
