"""Pools as downloads, copies and joins leave them: what is used and what is counted as lost make up what is there."""

from __future__ import annotations

import bz2
import logging
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsift_common.errors import ClipsiftError
from helpers.pools import sample
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool

TEN = 10  # samples in each tar here


def tars(folder: Path, *names: str) -> Path:
    """A tar of ten samples for each name, no uid twice in the folder."""
    for name in names:
        start = 1000 * (1 + sum(path.is_file() for path in folder.rglob("*")))
        write_tar(folder / name, [x for n in range(TEN) for x in sample(f"{n:04d}", start + n)])
    return folder


def found(folder: Path) -> int:
    """Samples that ``tarfile`` finds in all that it can open below a folder, links to folders included."""
    count = 0
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if not name.startswith("."):
                with tarfile.open(Path(root, name)) as tar:
                    count += sum(member.name.endswith(".txt") for member in tar)
    return count


def index_of(location: Path | str, cache: Path, max_loss: float = 1.0) -> PoolIndex:
    return PoolIndex.build(Pool(str(location)), cache, max_loss=max_loss)


def pack(tar: Path) -> None:
    """Replace a tar by a packed form that is not read."""
    tar.with_name(f"{tar.name}.lz4").write_bytes(bz2.compress(tar.read_bytes()))
    tar.unlink()


def moved(tar: Path) -> Path:
    """Take a tar away; where it would be."""
    tar.unlink()
    return tar.with_name("gone.tar")


WHOLE: dict[str, tuple[str, ...]] = {
    "in the folder and below": ("0.tar", "part2/0.tar"),
    "three folders down": ("0.tar", "a/b/c/0.tar", "a/b/1.tar"),
    "beside shards/": ("shards/0.tar", "more/0.tar", "1.tar"),
    "shards/ and above it, of one name": ("shards/0.tar", "0.tar"),
    "other cases": ("0.tar", "0.TAR", "1.Tar"),
    "names that fall together": ("a_b/c.tar", "a/b_c.tar"),
    "blanks, brackets, braces, stars": ("a b/[0]/{x}/0*.tar", "a b/1?.tar"),
    "long names": ("x" * 120 + "/" + "y" * 120 + "/0.tar", "x" * 120 + "/" + "y" * 120 + "/1.tar"),
}


@pytest.mark.parametrize("names", WHOLE.values(), ids=WHOLE)
def test_every_tar_is_used(names: tuple[str, ...], tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", *names)
    index = index_of(pool, tmp_path / "cache", max_loss=0.0)
    assert len(index) == found(pool) == TEN * len(names)
    assert len({shard.name for shard in index.shards}) == len(names)


@pytest.mark.parametrize("names", [*WHOLE.values(), ("0.tar", ".hidden/1.tar", "a/._2.tar", "a/3.tar.part", "b/4.npz")])
def test_a_bucket_is_surveyed_as_a_disk_is(names: tuple[str, ...], tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for name in names:
        (tmp_path / "pool" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pool" / name).write_bytes(b"x")
        memory.pipe(f"/{tmp_path.name}/{name}", b"x")
    here, there = Pool(str(tmp_path / "pool")), Pool(f"memory://{tmp_path.name}")
    assert [shard.name for shard in here.shards] == [shard.name for shard in there.shards]
    assert [left.kind for left in here.left_out] == [left.kind for left in there.left_out]
    assert [shard.url.split("/pool/")[1] for shard in here.shards] == [
        shard.url.split(f"{tmp_path.name}/", 1)[1] for shard in there.shards
    ]


def link(place: Path, target: Path | str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "a linked folder": lambda pool, disk: link(pool / "linked", disk),
    "a link to a link": lambda pool, disk: (link(disk.parent / "l", disk), link(pool / "linked", disk.parent / "l"))[0],
    "a linked file": lambda pool, disk: link(pool / "linked" / "9.tar", disk / "9.tar"),
    "a folder linked twice": lambda pool, disk: (link(pool / "a", disk), link(pool / "b" / "c", disk))[0],
    "a loop": lambda pool, disk: (link(pool / "a", disk), link(pool / "real" / "up", ".."), link(pool / "me", "me"))[0],
    "a loop on another disk": lambda pool, disk: (link(pool / "a", disk), link(disk / "up", disk))[0],
    "a link above the pool": lambda pool, disk: (link(pool / "a", disk), link(pool / "up", "../.."))[0],
}


@pytest.mark.parametrize("make", LINKS.values(), ids=LINKS)
def test_links_are_entered_once(make: Callable[[Path, Path], None], tmp_path: Path) -> None:
    pool, disk = tmp_path / "here" / "pool", tmp_path / "disk"
    tars(tmp_path, "here/pool/real/0.tar", "disk/9.tar", "elsewhere/7.tar")
    make(pool, disk)
    index = index_of(pool, tmp_path / "cache", max_loss=0.0)
    assert len(index) == 2 * TEN


def rename(suffix: str) -> Callable[[Path], object]:
    return lambda pool: (pool / "b" / "1.tar").rename(pool / "b" / f"1{suffix}")


LOST: dict[str, tuple[str, Callable[[Path], object]]] = {
    "packed": ("packed_shard", lambda pool: pack(pool / "b" / "1.tar")),
    "half downloaded": ("partial_download", rename(".tar.part")),
    "half downloaded by a browser": ("partial_download", rename(".tar.crdownload")),
    "put aside": ("unknown_suffix", rename(".tar.old")),
    "a copy of a copy": ("unknown_suffix", rename(".tar (2)")),
    "another archive": ("archive", rename(".zip")),
    "a disk that is not mounted": ("broken_link", lambda pool: link(pool / "b" / "9.tar", moved(pool / "b" / "1.tar"))),
}


@pytest.mark.parametrize(("kind", "spoil"), LOST.values(), ids=LOST)
def test_what_cannot_be_used_is_lost_and_stops_the_run(
    kind: str, spoil: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = tars(tmp_path / "pool", "0.tar", "b/1.tar", "b/2.tar")
    there = found(pool)
    spoil(pool)
    index = index_of(pool, tmp_path / "cache")
    report = index.report
    if kind != "packed_shard":  # whose size is another one
        assert dict(report.lost) == {kind: TEN}
    assert (len(index), len(index) + TEN) == (2 * TEN, there)
    assert report.files == {"shards": 2, "left_out": 1}
    assert len([line for line in caplog.messages if kind in line and "samples lost" in line]) == 1
    with pytest.raises(
        ClipsiftError, match=rf"of \d+ samples lost .*{kind} \d+\), above max_loss 1.00%; first: {pool}/b/"
    ):
        index_of(pool, tmp_path / "cache", max_loss=0.01)


@pytest.mark.parametrize("promise", ["stats", "parquet"])
def test_img2dataset_tells_how_many_samples_a_file_had(promise: str, tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", "0.tar", "1.tar", "b/2.tar")
    if promise == "stats":
        (pool / "b" / "2_stats.json").write_text('{"count": 13, "successes": 7}')
    else:
        status = ["success"] * 7 + ["failed_to_download"] * 6
        pq.write_table(pa.table({"url": ["x"] * 13, "status": status}), pool / "b" / "2.parquet")
    pack(pool / "b" / "2.tar")
    report = index_of(pool, tmp_path / "cache").report
    assert dict(report.lost) == {"packed_shard": 7}
    assert report.samples == 2 * TEN + 7
    assert report.files == {"shards": 2, "sidecars": 1, "left_out": 1}


def test_a_shard_that_only_its_statistics_speak_of_is_lost(tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", "0.tar")
    for name, successes in (("0", TEN), ("1", 40)):
        (pool / f"{name}_stats.json").write_text(f'{{"successes": {successes}}}')
    assert dict(index_of(pool, tmp_path / "cache").report.lost) == {"missing_shard": 40}


def test_a_tar_that_has_less_than_its_own_parquet_promises_is_cut(tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", "0.tar", "deep/1.tar")
    pq.write_table(pa.table({"status": ["success"] * 14 + ["failed_to_resize"]}), pool / "deep" / "1.parquet")
    assert dict(index_of(pool, tmp_path / "cache").report.lost) == {"truncated_tar": 4}


def test_nothing_is_lost_with_copies_checksums_and_hidden_files(tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", "0.tar", "1.tar")
    shutil.copy(pool / "0.tar", pool / "0.tar.part")
    (pool / "1.tar.xz").write_bytes(b"x" * 50_000)
    for name in ("._0.tar", ".0.tar.crc", "1.tar.md5", "notes"):
        (pool / name).write_bytes(b"x" * 50_000)
    report = index_of(pool, tmp_path / "cache", max_loss=0.0).report
    assert report.samples == 2 * TEN
    assert dict(report.ignored) == {"partial_download": 1, "copy_of_shard": 1, "hidden": 2, "other_file": 1}
    assert report.files == {"shards": 2, "sidecars": 1, "left_out": 5}


def test_one_line_tells_of_any_number_of_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    pool = tars(tmp_path / "pool", "0.tar")
    for number in range(100):
        (pool / f"{number}.tar.part").write_bytes(b"x")
        (pool / f"._{number}.tar").write_bytes(b"x")
    report = index_of(pool, tmp_path / "cache").report
    index_of(pool, tmp_path / "cache")
    lines = [line for line in caplog.messages if line.startswith(f"pool {pool}")]
    assert [("partial_download" in line, "hidden" in line) for line in lines] == [
        (False, False),
        (True, False),
        (False, True),
    ]
    assert max(map(len, lines)) < 600
    assert max(map(len, report.examples.values())) == 20


def test_shards_of_joined_outputs_are_named_after_their_folders(tmp_path: Path) -> None:
    for part in ("cc3m", "cc12m"):
        tars(tmp_path / "data" / part, "00000.tar", "00001.tar")
    data = tmp_path / "data"
    joined = [f"{data}/cc3m::{data}/cc12m", f"{data}/{{cc3m,cc12m}}", f"{data}/{{cc3m,cc12m}}/{{00000..00001}}.tar"]
    for location in joined:
        names = [shard.name for shard in Pool(location).shards]
        assert names == ["cc3m_00000", "cc3m_00001", "cc12m_00000", "cc12m_00001"], location
    assert sorted(shard.name for shard in Pool(f"{data}/cc*/*.tar").shards) == sorted(names)
    shutil.move(data, tmp_path / "on another machine")
    moved = f"{tmp_path}/on another machine"
    assert [shard.name for shard in Pool(f"{moved}/cc3m::{moved}/cc12m").shards] == names


def test_names_without_a_clash_are_those_of_before(tmp_path: Path) -> None:
    tars(tmp_path / "datacomp" / "shards", "00000000.tar", "00000001.tar")
    tars(tmp_path / "folders", "a/0.tar", "b/0.tar")
    location = f"{tmp_path}/datacomp::{tmp_path}/folders::{tmp_path}/folders/c"
    tars(tmp_path / "folders" / "c" / "d", "7.tar")
    assert [shard.name for shard in Pool(str(tmp_path / "datacomp")).shards] == ["00000000", "00000001"]
    assert [shard.name for shard in Pool(str(tmp_path / "folders")).shards] == ["a_0", "b_0", "c_d_7"]
    with pytest.raises(ClipsiftError, match="named twice"):
        Pool(location)


PATTERNS = {
    "[v1] (small)/*.tar": ["0", "1"],
    "[v1] (small)/{0,1}.tar": ["0", "1"],
    "[v1] (small)/[1].tar": ["1"],
    "{a}": ["0", "1"],
    "{a,b}/{0..1}.tar": ["0", "1"],
    "50*/": ["0", "1"],
    "50*/*": ["0", "1"],
    "* x?/0.tar": ["0"],
}


@pytest.mark.parametrize("scheme", ["", "memory://"])
@pytest.mark.parametrize(("location", "names"), PATTERNS.items())
def test_names_that_exist_are_no_patterns(location: str, names: list[str], scheme: str, tmp_path: Path) -> None:
    root, memory = tmp_path / "pools", fsspec.filesystem("memory")
    for folder in ("[v1] (small)", "v (small)", "{a}", "a", "{a,b}", "b", "50*", "507", "* x?"):
        for name in ("0.tar", "1.tar"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / name).write_bytes(b"")
            memory.pipe(f"{root}/{folder}/{name}", b"")
    pool = Pool(f"{scheme}{root}/{location}")
    folder = location.split("/")[0]
    assert [shard.name for shard in pool.shards] == names
    assert {shard.url.split("/pools/")[1].split("/")[0] for shard in pool.shards} == {folder}


def test_what_is_there_is_said_when_nothing_can_be_used(tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", "0.tar")
    pack(pool / "0.tar")
    with pytest.raises(ClipsiftError, match=r"no \.tar shards and no metadata at .*; 1 packed_shard \(.*0\.tar\.lz4\)"):
        Pool(str(pool))


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = tars(tmp_path / "pool", "0.tar", "secret/1.tar")
    scandir = os.scandir

    def refuse(path: str) -> object:  # as root, whom nothing is refused, one cannot make such a folder
        if str(path).rstrip("/").endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (left,) = Pool(str(pool)).left_out
    assert (left.kind, left.path) == ("unreadable_folder", f"{pool}/secret/")


@pytest.mark.parametrize("tar", [b"", bytes(1024), bytes(10240)])
def test_an_empty_tar_loses_what_was_promised(tar: bytes, tmp_path: Path) -> None:
    pool = tars(tmp_path / "pool", "0.tar")
    (pool / "1.tar").write_bytes(tar)
    (pool / "1_stats.json").write_text('{"successes": 40}')
    report = index_of(pool, tmp_path / "cache").report
    assert (report.samples, report.num_lost) == (TEN + 40, 40)


def test_names_that_are_no_text_are_used_and_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pool = tars(tmp_path / "pool", "0.tar", "caf\udce9/\udce9.tar", "caf\udce8/\udce9.tar", "x\udce9.tar.part")
    index = index_of(pool, tmp_path / "cache")
    assert len(index) == 3 * TEN
    assert "1 partial_download (x\\udce9.tar.part)" in caplog.text
