"""What lies beside the files that a pattern takes is said, and stops no run; what it names and is not there does."""

from __future__ import annotations

import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from clipsift_app.doctor.files import check_files
from clipsift_app.parsing import parse_run
from clipsift_common.errors import ClipsiftError
from clipsift_common.progress import log_once
from helpers.parquets import write_parquet
from helpers.pools import write_pool
from selection.pool.index import PoolIndex
from selection.pool.location import Pool


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Ten tars with what img2dataset leaves beside them, an eleventh, other things, and more below."""
    folder = write_pool(tmp_path / "data", {f"{number:05d}": 1 for number in range(11)}) / "shards"
    for number in range(10):
        (folder / f"{number:05d}_stats.json").write_text('{"successes": 1}')
        write_parquet(folder / f"{number:05d}.parquet", pa.table({"uid": ["1"], "status": ["success"]}))
    shutil.copytree(folder, folder / "more")
    (folder / ".cache").mkdir()
    (folder / "notes.txt").write_text("x")
    (folder / "old.zip").write_bytes(b"PK")
    (folder / "00011.tar.part").write_bytes(b"x")
    return folder


def beside(location: str) -> list[str]:
    return [left.path for left in Pool(location).left_out if left.kind == "beside_pattern"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{00000..00009}.tar", ["00010.tar", "00011.tar.part", "more/", "old.zip"]),
        ("0000?.tar", None),
        ("0000[0-9].tar", ["00010.tar", "00011.tar.part", "more/", "old.zip"]),
        ("*.tar", ["00011.tar.part", "more/", "old.zip"]),
        ("{00000..00010}.tar", ["00011.tar.part", "more/", "old.zip"]),
    ],
)
def test_what_a_pattern_does_not_take_is_named(shards: Path, pattern: str, names: list[str] | None) -> None:
    if names is None:  # a question mark is no pattern here
        with pytest.raises(ClipsiftError, match="does not exist"):
            Pool(f"{shards}/{pattern}")
        return
    assert beside(f"{shards}/{pattern}") == [f"{shards}/{name}" for name in names]


def test_it_is_logged_once_and_stops_nothing(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_once.cache_clear()
    caplog.set_level("INFO", "clipsift")
    pool = Pool(f"{shards}/{{00000..00009}}.tar")
    index = PoolIndex.build(pool, tmp_path / "cache", max_loss=0.0)
    assert (len(index), index.report.num_lost, index.report.ignored["beside_pattern"]) == (10, 0, 4)
    assert "4 beside_pattern (" in caplog.text
    assert f"{shards}/00010.tar" in caplog.text


def test_doctor_has_a_row_for_it(shards: Path, tmp_path: Path) -> None:
    location = f"{shards}/{{00000..00009}}.tar"
    arguments = ["--config", "configs/laptop.yaml", "--pool", location, "--out", str(tmp_path / "run")]
    arguments += ["--selection.steps", "[{score: random, keep: 0.5}]", "--selection.teacher", "null"]
    run = parse_run(arguments, needs_eval=False)
    findings = {finding.check: finding for finding in check_files(run, Pool(location), None, 10.0)}
    assert findings["beside_pattern"].status == "ok"
    assert f"4 beside_pattern ({shards}/00010.tar" in findings["beside_pattern"].text


def test_whole_folders_beside_are_seen_at_every_level(tmp_path: Path) -> None:
    for name in ("cc3m/a", "cc3m/b", "cc12m/a", "laion/a"):
        write_pool(tmp_path / name, {"0": 1})
    assert beside(f"{tmp_path}/{{cc3m,cc12m}}") == [f"{tmp_path}/laion/"]
    assert beside(f"{tmp_path}/{{cc3m,cc12m}}/a") == [f"{tmp_path}/laion/", f"{tmp_path}/cc3m/b/"]
    assert beside(f"{tmp_path}/*/a/shards/*.tar") == [f"{tmp_path}/cc3m/b/"]
    assert beside(f"{tmp_path}/**/*.tar") == []
    (tmp_path / "link").symlink_to(tmp_path / "laion")
    assert beside(f"{tmp_path}/cc*") == [f"{tmp_path}/laion/", f"{tmp_path}/link/"]


def test_what_another_part_of_the_pool_takes_is_not_left_out(shards: Path, tmp_path: Path) -> None:
    both = f"{shards}/{{00000..00004}}.tar::{shards}/{{00005..00009}}.tar::{shards}/more"
    assert beside(both) == [f"{shards}/{name}" for name in ("00010.tar", "00011.tar.part", "old.zip")]
    listed = tmp_path / "pool.txt"
    listed.write_text(f"{shards}/{{00000..00009}}.tar\n{shards}/00010.tar\n")
    assert beside(str(listed)) == [f"{shards}/{name}" for name in ("00011.tar.part", "more/", "old.zip")]


def test_a_file_or_folder_that_is_named_has_nothing_beside_it(shards: Path) -> None:
    assert beside(f"{shards}/00000.tar") == beside(str(shards)) == []


def test_a_pattern_in_a_bucket(shards: Path) -> None:
    fs = fsspec.filesystem("memory")
    for path in sorted(shards.glob("0000[0-3].tar")):
        fs.pipe_file(f"/bucket/pool/{path.name}", path.read_bytes())
    fs.pipe_file("/bucket/pool/more/9.tar", b"")
    fs.pipe_file("/bucket/elsewhere/9.tar", b"")
    try:
        found = beside("memory://bucket/pool/{00000..00002}.tar")
        assert found == ["memory:///bucket/pool/00003.tar", "memory:///bucket/pool/more/"]
    finally:
        fs.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{00000..00011}.tar", r"shards/00011\.tar does not exist$"),
        ("{00009..00012}.tar", r"shards/00011\.tar does not exist, nor \S*/00012\.tar$"),
        ("{00000..00200}.tar", r"shards/00011\.tar does not exist, nor .*/00015\.tar, 185 more$"),
        ("{00000,x}.tar", r"shards/x\.tar does not exist$"),
    ],
)
def test_numbers_of_a_range_that_are_not_there_are_named(shards: Path, pattern: str, message: str) -> None:
    with pytest.raises(ClipsiftError, match=message):
        Pool(f"{shards}/{pattern}")
