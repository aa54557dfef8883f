"""The doctor finds what would fail later, says what to do, and leaves no trace."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import clipsift_app.doctor.disk
from clipsift_app.doctor import shared_memory, step
from clipsift_app.doctor.files import check_files
from clipsift_app.doctor.memory import StepMemory, num_blocks, saved_tensors
from clipsift_app.doctor.shards import check_ends, read_some
from clipsift_app.doctor.subsets import check_metadata, check_subsets
from clipsift_app.parsing import parse_run
from clipsift_app.program import run_verb
from clipsift_app.settings import RunSettings
from clipsift_common.clip import create_clip
from helpers import program
from helpers.packing import pack
from helpers.pools import spoil, write_pool
from helpers.range_server import serve
from helpers.workspace import write_workspace
from selection.features.files import write_feature_file
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from selection.uids import parse_uids

TASKS = "--evaluation.tasks=[imagenet1k, vtab/dtd]"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_workspace(tmp_path)
    return tmp_path


def doctor(folder: Path, *arguments: str) -> int:
    words = [f"--config={folder / 'config.yaml'}", f"--out={folder / 'run'}", "--data.workers=0", TASKS, *arguments]
    return run_verb("doctor", words)


def table(text: str) -> dict[str, tuple[str, str]]:
    """Check -> status and all that is said without its spaces, from the printed table."""
    parts: dict[str, tuple[str, str, str]] = {}
    name = ""
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split("│")]
        if len(cells) == 6:
            name = cells[1] or name
            status, said, remedy = parts.get(name, (cells[2], "", ""))
            parts[name] = (status, said + cells[3], remedy + cells[4])  # broken anywhere: spaces are not compared
    return {name: (status, (said + " " + remedy).replace(" ", "")) for name, (status, said, remedy) in parts.items()}


def test_a_run_in_order_passes_and_nothing_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert doctor(folder, "--data.workers=1") == 0
    found = table(capsys.readouterr().out)
    assert {status for status, _ in found.values()} <= {"ok", "warn"}
    for check in (
        "settings",
        "shards",
        "samples",
        "reading",
        "evaluation",
        "disk",
        "launch",
        "memory",
        "shared memory",
        "speed",
        "data",
    ):
        assert check in found
    assert "72wholesamples" in found["samples"][1]
    assert "10steps" in found["speed"][1]
    assert sorted(folder.rglob("*")) == before


def test_everything_wrong_with_files_is_found_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = folder / "pool/shards/00000001.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    shutil.rmtree(folder / "eval/wds_vtab-dtd_test")
    Subset(parse_uids([f"{number:032x}" for number in range(5000, 5100)])).save(folder / "other.npy")
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(clipsift_app.doctor.disk.shutil, "disk_usage", lambda _: usage)
    assert doctor(folder, f"--data.subset={folder / 'other.npy'}", "--data.global_batch=4000000") == 1
    found = table(capsys.readouterr().out)
    for check, words in {
        "shards": "00000001.tar is truncated",
        "subset other.npy": "none of its 100 samples",
        "evaluation": "wds_vtab-dtd_test does not exist",
        "disk": "to be written",
        "memory": "for 4,000,000 samples on each device",
    }.items():
        status, said = found[check]
        assert status == "fail", (check, said)
        assert words.replace(" ", "") in said, said
    assert "ofanotherpool" in found["subset other.npy"][1]
    assert "evaluate--download" in found["evaluation"][1]
    assert "elsewhere" in found["disk"][1]
    assert "moredevices" in found["memory"][1] or "accumulate" in found["memory"][1]


def test_shards_that_are_fetched_need_room(folder: Path) -> None:
    shards = sorted((folder / "pool/shards").glob("*.tar"))
    total = sum(shard.stat().st_size for shard in shards)
    run = parse_run([f"--config={folder / 'config.yaml'}", f"--out={folder / 'run'}"], needs_eval=False)
    with serve(folder / "pool/shards") as server:
        pool = Pool(f"{server.url}/{{00000000..00000002}}.tar")
        needs = {what: need for _, what, need in clipsift_app.doctor.disk._written(run, pool, 72.0)}
        assert needs["fetched shards"] == total
        run.data["shard_cache_gb"] = 0.5e-9 * total
        limited = {what: need for _, what, need in clipsift_app.doctor.disk._written(run, pool, 72.0)}
    assert limited["fetched shards"] == pytest.approx(total / 2)


def test_too_little_shared_memory_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = type("usage", (), {"free": 180_000})  # four batches of 16 pictures of 32 pixels take 196,608
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: usage)
    assert doctor(folder, "--data.workers=1") == 1
    status, said = table(capsys.readouterr().out)["shared memory"]
    assert status == "fail"
    assert "--shm-size" in said


def test_shared_memory_is_for_the_workers_of_every_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = type("usage", (), {"free": 5 * 2**20})
    monkeypatch.setattr(shared_memory.shutil, "disk_usage", lambda _: usage)
    for setting in ("selection.embedding", "evaluation"):
        # 2 batches of 1,024 pictures of 32 x 32 x 3 bytes: 6.3 MB
        assert doctor(folder, f"--{setting}.workers=1", f"--{setting}.batch_size=1024") == 1
        status, said = table(capsys.readouterr().out)["shared memory"]
        assert (status, f"--{setting}.workers" in said) == ("fail", True), said


def test_memory_that_one_rank_lacks_is_known_to_all_before_a_step_together(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = object.__new__(step.Trial)
    others: list[float | None] = [0.7]
    monkeypatch.setattr(step, "gather_objects", lambda value: [value, *others])
    monkeypatch.setattr(step.Trial, "_steps", lambda self, count: (0.5, 10))
    assert trial._alone(4) == 0.7
    others[:] = [None]  # the other one lacks it
    assert trial._alone(4) is None

    def run_out(self: step.Trial, count: int) -> tuple[float, int]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step.Trial, "_steps", run_out)
    others[:] = [0.7]  # this one lacks it, and says so instead of leaving the other waiting
    assert trial._alone(4) is None


def test_a_launch_of_another_size_is_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert doctor(folder, "--trainer.devices=1") == 1
    status, said = table(capsys.readouterr().out)["launch"]
    assert status == "fail"
    assert "thelaunchhas2processes" in said


def test_wrong_settings_are_one_line_of_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(folder, "--selection.stpes=[]") == 1
    assert table(capsys.readouterr().out)["settings"][0] == "fail"


@pytest.fixture
def run(folder: Path) -> RunSettings:
    return parse_run([f"--config={folder / 'config.yaml'}", f"--out={folder / 'run'}"])


@pytest.fixture
def index(run: RunSettings, tmp_path: Path) -> PoolIndex:
    found = read_some(run, Pool(run.pool), None, tmp_path / "scratch")[1]
    assert found is not None
    return found


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"no tar at all" * 100])
def test_what_is_no_tar_is_found(folder: Path, content: bytes) -> None:
    (folder / "pool/shards/00000002.tar").write_bytes(content)
    finding = check_ends(Pool(str(folder / "pool")))
    assert finding.status == "fail"
    assert "00000002.tar is truncated" in finding.text


def test_losses_are_weighed_against_what_may_be_lost(run: RunSettings, tmp_path: Path) -> None:
    spoil(Path(run.pool))
    pool = Pool(run.pool)
    strict, _ = read_some(run, pool, None, tmp_path / "a")
    assert (strict.status, "raise max_loss" in strict.remedy) == ("fail", True)
    run.max_loss = 0.5
    assert read_some(run, pool, None, tmp_path / "b")[0].status == "warn"
    some, index = read_some(run, pool, 2, tmp_path / "c")
    assert "2 of 3 shards read" in some.text
    assert index is not None
    assert [shard.name for shard in index.shards] == ["00000000", "00000002"]


@pytest.mark.parametrize(
    ("uids", "num_pool", "exact", "status"),
    [
        (range(1, 41), 72, True, "ok"),
        (range(40, 90), 72, True, "warn"),  # 33 of 50
        (range(500, 503), 72, True, "fail"),
        (range(500, 600), 720, False, "fail"),  # ten of them were to be expected in a tenth of the pool
        (range(500, 503), 720, False, "warn"),  # too few to say
    ],
)
def test_coverage_of_a_subset(
    run: RunSettings, index: PoolIndex, tmp_path: Path, uids: range, num_pool: int, exact: bool, status: str
) -> None:
    Subset(parse_uids([f"{number:032x}" for number in uids])).save(tmp_path / "subset.npy")
    run.data["subset"] = str(tmp_path / "subset.npy")
    (finding,) = check_subsets(run, index, num_pool, exact)
    assert finding.status == status, finding


@pytest.mark.parametrize(("first", "rows", "features", "status"), [
    (1, 72, "l14", "ok"), (1, 40, "l14", "warn"), (900, 72, "l14", "fail"), (1, 72, "b32", "fail"), (1, 72, None, "ok"),
])  # fmt: skip
def test_metadata_against_shards(
    run: RunSettings, index: PoolIndex, first: int, rows: int, features: Any, status: str
) -> None:
    folder = Path(run.pool) / "metadata"
    folder.mkdir()
    pq.write_table(pa.table({"uid": [f"{first + row:032x}" for row in range(rows)]}), folder / "0.parquet")
    np.savez(folder / "0.npz", l14_img=np.ones((rows, 4), np.float16), l14_txt=np.ones((rows, 4), np.float16))
    run.selection.features = features
    (finding,) = check_metadata(run, Pool(run.pool), index, read_all=True)
    assert finding.status == status, finding


def test_features_without_metadata(run: RunSettings, index: PoolIndex, tmp_path: Path) -> None:
    assert check_metadata(run, Pool(run.pool), index, read_all=True) == []
    run.selection.features = "l14"
    assert check_metadata(run, Pool(str(write_pool(tmp_path / "p", {"0": 1}))), index, True)[0].status == "fail"


def test_memory_of_a_step_by_hand() -> None:
    memory = StepMemory(fixed=1000, per_sample=100)
    assert memory.bytes(16, 2) == 1000 + 1600 + 24 * 16 * 32
    assert memory.bytes(16, 2, accumulate=4) == 1000 + 400 + 24 * 16 * 32
    assert memory.pieces_that_fit(16, 2, 1000 + 400 + 24 * 16 * 32) == 4
    assert memory.pieces_that_fit(16, 2, 1000) is None


def test_blocks_are_those_of_the_longest_row() -> None:
    assert num_blocks(torch.nn.Linear(2, 2)) == 1
    assert num_blocks(create_clip("ViT-B-32", device="meta")) == 12


def test_saved_tensors_are_counted_once_and_weights_not() -> None:
    layer = torch.nn.Linear(10, 20, bias=False)
    with saved_tensors(selective=False) as saved:
        values = layer(torch.ones(5, 10))  # keeps its input, 200 bytes, and the weight
        (values * values).sum()  # keeps one tensor of 400 bytes, twice
    assert saved.bytes == 200 + 400


@pytest.mark.slow
def test_two_processes_take_real_steps_together(folder: Path) -> None:
    arguments = [f"--config={folder / 'config.yaml'}", f"--out={folder / 'run'}", "--data.workers=0", TASKS]
    result = program.run(["doctor", *arguments, "--trainer.devices=2"])
    assert result.returncode == 0, result.stdout + result.stderr
    found = table(result.stdout)
    assert "2processesoncpu,8samples" in found["launch"][1]
    assert found["memory"][0] == "ok"
    assert result.stdout.count("settings") == 1
    assert not (folder / "run").exists()
    launcher = program.torchrun()
    refused = program.run(["doctor", *arguments, "--trainer.devices=1"], launcher)
    assert refused.returncode != 0
    assert "thelaunchhas2processes" in table(refused.stdout)["launch"][1]


def test_what_a_run_would_leave_out_is_said_by_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = folder / "pool" / "shards"
    shutil.copy(shards / "00000001.tar", shards / "00000003.tar.lz4")
    (shards / "00000003_stats.json").write_text('{"successes": 20}')
    (shards / "._00000001.tar").write_bytes(b"x" * 4096)
    (shards / "00000002.tar.part").write_bytes(b"x" * 4096)
    run = ["--data.samples_seen=16", "--data.global_batch=16"]
    assert doctor(folder, *run) == 1
    found = table(capsys.readouterr().out)
    assert found["files"] == ("ok", "3shards,0metadata,1sidecars,3leftout")
    assert found["hidden"][0] == "ok"
    assert found["partial_download"][0] == "warn"
    status, said = found["packed_shard"]
    assert status == "fail"
    assert "1packed_shard(shards/00000003.tar.lz4)" in said
    assert "about20sampleslost,21.74%" in said  # of 72 + 20
    assert doctor(folder, *run, "--max_loss=0.22") == 0
    assert table(capsys.readouterr().out)["packed_shard"][0] == "warn"


def test_doctor_does_not_claim_to_have_looked_into_packed_shards(folder: Path) -> None:
    pack(folder / "pool" / "shards", ".tar.gz")
    (folder / "pool" / "shards" / "00000001.tar.gz").write_bytes(b"")
    finding = check_ends(Pool(str(folder / "pool")))
    assert (finding.status, "00000001.tar.gz is empty" in finding.text) == ("fail", True)
    (folder / "pool" / "shards" / "00000001.tar.gz").unlink()
    finding = check_ends(Pool(str(folder / "pool")))
    assert (finding.status, "2 are packed" in finding.text) == ("ok", True)


def test_metadata_that_would_be_left_out_is_weighed(run: RunSettings, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        folder = Path(run.pool) / "metadata" / name
        uids = np.array([(0, number) for number in range(10)], "u8,u8")
        write_feature_file(folder, "l14", name, uids, ["a caption"] * 10, np.eye(10), np.eye(10))
    (folder / "c.parquet").unlink()
    run.selection.features = "l14"
    findings = {finding.check: finding for finding in check_files(run, Pool(run.pool), None, 72.0)}
    assert findings["features_alone"].status == "fail"
    assert "about 10 samples lost, 33.33% with all kinds" in findings["features_alone"].text
    run.max_loss = 0.4
    assert {finding.status for finding in check_files(run, Pool(run.pool), None, 72.0)} == {"ok", "warn"}
    run.selection.features = None  # then metadata are not read
    assert "lost" not in [*check_files(run, Pool(run.pool), None, 72.0)][1].text
