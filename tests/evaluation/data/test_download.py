"""Fetching the evaluation sets from a hub of our own: what arrives, what goes wrong, what goes on."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate
from evaluation.data.download import download
from evaluation.data.layout import MANIFEST_NAME, check, repository_name
from evaluation.tasks import select_tasks
from helpers.colours import FLICKR, sample, toy_clip, write_flickr
from helpers.evaluation_sets import write_task
from helpers.hub_server import Hub
from helpers.program import REPOSITORY

CIFAR, GEODE = TASKS["cifar10"], TASKS["fairness/geode"]
CIFAR_TAR = f"djghosh/{CIFAR.folder}/test/0.tar"
EVERYTHING = ["cifar10", "fairness/geode", FLICKR.key]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """CIFAR-10 in two shards, GeoDE in one, Flickr."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("evaluation.data.hub._WAITS", (0.01,))
    source = tmp_path / "hub"
    write_task(source / repository_name(CIFAR), [sample("red", 0), sample("green", 1)] * 4, num_shards=2)
    write_task(source / repository_name(GEODE), [sample("red", 0, 0, 3)])
    write_flickr(source, [{"filename": "red.jpg", "raw": ["red", "blue"]}])
    with Hub(source) as server:
        yield server


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def contents(folder: Path, with_notes: bool = False) -> dict[str, bytes]:
    notes = (MANIFEST_NAME, ".download.lock")
    files = [path for path in folder.rglob("*") if path.is_file() and (with_notes or path.name not in notes)]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def source_of(hub: Hub) -> dict[str, bytes]:
    return {name.removeprefix("djghosh/"): data for name, data in contents(hub.folder).items()}


def test_arrives_in_datacomps_layout(hub: Hub, data: Path, machine: Machine) -> None:
    download(EVERYTHING, data, hub.endpoint)
    assert contents(data) == source_of(hub)
    note = json.loads((data / CIFAR.folder / MANIFEST_NAME).read_text())
    assert note["repository"] == "djghosh/wds_cifar10_test"
    assert note["revision"] == hub.revision(note["repository"])
    names = {"classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/0.tar", "test/1.tar"}
    assert note["files"].keys() == names
    for name, file in note["files"].items():
        there = (data / CIFAR.folder / name).read_bytes()
        assert file == {"size": len(there), "sha256": hashlib.sha256(there).hexdigest()}
    assert check(data, select_tasks(EVERYTHING), checksums=True) == []
    assert len(evaluate(toy_clip(), data, workers=0, machine=machine)) == 3


def test_second_call_asks_for_nothing(hub: Hub, data: Path) -> None:
    download(EVERYTHING, data, hub.endpoint)
    before = contents(data, with_notes=True), len(hub.requests), len(hub.listings)
    download(EVERYTHING, data, hub.endpoint)
    assert (contents(data, with_notes=True), len(hub.requests), len(hub.listings)) == before


def test_a_cut_line_and_a_busy_server_are_waited_out(hub: Hub, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.data.hub.CHUNK", 2048)
    hub.faults["djghosh/wds_cifar10_test"] = ["503"]
    hub.faults[CIFAR_TAR] = ["ok", "cut", "ok", "503"]
    download(["cifar10"], data, hub.endpoint)
    assert check(data, [CIFAR], checksums=True) == []
    assert contents(data / CIFAR.folder) == contents(hub.folder / repository_name(CIFAR))
    first = [f"bytes={start}-{start + 2047}" for start in range(0, 10240, 2048)]
    assert hub.ranges(CIFAR_TAR) == [first[0], first[1], first[1], first[2], first[2], *first[3:]]


def test_goes_on_where_it_was_stopped(hub: Hub, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.data.hub.CHUNK", 4096)
    hub.faults[CIFAR_TAR] = ["ok", "404"]
    with pytest.raises(ClipsiftError, match=rf"1 missing .*{CIFAR_TAR}: cannot be fetched .*start again") as error:
        download(EVERYTHING, data, hub.endpoint)
    assert "\n" not in str(error.value)
    assert not (data / CIFAR.folder / MANIFEST_NAME).exists()
    assert check(data, select_tasks(EVERYTHING)) == [f"cifar10: {data / CIFAR.folder / 'test' / '0.tar'} is missing"]
    hub.requests.clear()
    download(EVERYTHING, data, hub.endpoint)
    assert hub.requests == [(CIFAR_TAR, "bytes=4096-8191"), (CIFAR_TAR, "bytes=8192-10239")]
    assert contents(data) == source_of(hub)


def test_what_arrives_damaged_is_fetched_once_more(hub: Hub, data: Path) -> None:
    hub.faults[CIFAR_TAR] = ["garble"]
    classnames = f"djghosh/{GEODE.folder}/classnames.txt"
    hub.faults[classnames] = ["garble", "garble"]
    with pytest.raises(ClipsiftError, match=rf"1 missing .*{classnames}: arrived damaged, twice"):
        download(EVERYTHING, data, hub.endpoint)
    assert check(data, [CIFAR], checksums=True) == []
    assert not (data / GEODE.folder / "classnames.txt").exists()
    assert not list(data.rglob("*.part"))


def test_names_from_the_network_do_not_lead_out_of_the_folder(hub: Hub, data: Path, tmp_path: Path) -> None:
    secret = tmp_path / "hub" / "djghosh" / "evil.tar"
    secret.write_bytes(b"evil")
    digest = hashlib.sha256(b"evil").hexdigest()
    for name in (
        "../evil.tar",
        "test/../../evil.tar",
        "/evil.tar",
        "test/00.tar",
        "test/-1.tar",
        "evil.py",
        "test/1.tar/x",
    ):
        entry = {"rfilename": name, "size": 4, "blobId": digest, "lfs": {"size": 4, "sha256": digest, "pointerSize": 1}}
        hub.extra["djghosh/wds_cifar10_test"].append(entry)
    download(["cifar10"], data, hub.endpoint)
    assert contents(data) == {name: value for name, value in source_of(hub).items() if name.startswith(CIFAR.folder)}
    assert not any("evil" in name for name, _ in hub.requests)

    bad = {"rfilename": "test/1.tar", "size": 4, "blobId": "../../../evil"}
    hub.extra[repository_name(GEODE)].append(bad)
    with pytest.raises(ClipsiftError, match="as a digest"):
        download(["fairness/geode"], data, hub.endpoint)
    assert not list(tmp_path.glob("*evil*"))


def test_what_the_hub_lacks_is_named_and_the_rest_arrives(hub: Hub, data: Path) -> None:
    (hub.folder / repository_name(GEODE) / "test" / "nshards.txt").write_text("3\n")
    (hub.folder / FLICKR.folder / FLICKR.options["images"]).unlink()
    with pytest.raises(ClipsiftError) as error:
        download([*EVERYTHING, "mnist"], data, hub.endpoint)
    message = str(error.value)
    assert "4 missing" in message
    for shard in (1, 2):
        assert f"fairness/geode: {data / GEODE.folder / 'test' / f'{shard}.tar'} is missing" in message
    assert f"{FLICKR.folder}/images_flickr_1k_test.zip: is not in the repository" in message
    assert (
        f"mnist: {data / TASKS['mnist'].folder} does not exist (djghosh/wds_mnist_test: cannot be listed (" in message
    )
    assert check(data, [CIFAR], checksums=True) == []
    assert [task.key for task in select_tasks(EVERYTHING) if (data / task.folder / MANIFEST_NAME).exists()] == [
        "cifar10"
    ]


def test_what_another_program_has_fetched_is_compared_and_kept(hub: Hub, data: Path) -> None:
    write_task(data / CIFAR.folder, [sample("red", 0), sample("green", 1)] * 4, num_shards=2)
    with open(data / CIFAR.folder / "test" / "1.tar", "r+b") as handle:
        handle.seek(600)
        handle.write(b"?")  # of the right size, and wrong
    (data / CIFAR.folder / "classnames.txt").write_text("red\n")
    hub.requests.clear()
    download(["cifar10"], data, hub.endpoint)
    fetched = {f"djghosh/{CIFAR.folder}/classnames.txt", f"djghosh/{CIFAR.folder}/test/1.tar"}
    theirs = {f"djghosh/{CIFAR.folder}/{name}" for name in contents(data / CIFAR.folder)}
    assert {name for name, _ in hub.requests} <= theirs
    assert fetched <= {name for name, _ in hub.requests}
    assert CIFAR_TAR not in {name for name, _ in hub.requests}
    assert contents(data / CIFAR.folder) == contents(hub.folder / repository_name(CIFAR))


def test_without_a_connection_the_hubs_cache_is_taken(hub: Hub, data: Path, tmp_path: Path) -> None:
    tar_hash = hashlib.sha256((hub.folder / CIFAR_TAR).read_bytes()).hexdigest()
    for task in (CIFAR, FLICKR):
        for name in contents(hub.folder / repository_name(task)):
            huggingface_hub.hf_hub_download(repository_name(task), name, repo_type="dataset", endpoint=hub.endpoint)
    hub.requests.clear()
    download(["cifar10"], data / "online", hub.endpoint)
    assert hub.requests == []  # listed, and then found in the cache
    [blob] = [path for path in (tmp_path / "cache").rglob("blobs/*") if path.name == tar_hash]
    whole = blob.read_bytes()
    blob.write_bytes(b"?" * len(whole))
    download(["cifar10"], data / "again", hub.endpoint)
    assert hub.requests == [(CIFAR_TAR, f"bytes=0-{len(whole) - 1}")]  # what the cache has is compared too
    blob.write_bytes(whole)
    nowhere = "http://127.0.0.1:9"
    download(["cifar10", FLICKR.key], data, nowhere)
    assert contents(data / CIFAR.folder) == contents(hub.folder / repository_name(CIFAR))
    assert contents(data / FLICKR.folder) == contents(hub.folder / repository_name(FLICKR))
    assert check(data, [CIFAR, FLICKR], checksums=True) == []
    with pytest.raises(
        ClipsiftError, match=rf"fairness/geode: {data / GEODE.folder} does not exist \(djghosh/wds_geode"
    ):
        download(["fairness/geode"], data, nowhere)


def test_without_a_connection_a_whole_folder_is_taken_and_a_broken_one_is_not(hub: Hub, data: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    write_task(data / GEODE.folder, [sample("red", 0, 0, 3)])
    download(["fairness/geode"], data, nowhere)
    download(["cifar10"], data, hub.endpoint)
    os.truncate(data / CIFAR.folder / "test" / "1.tar", 5)
    with pytest.raises(ClipsiftError, match=r"1\.tar has 5 bytes, not 10240"):
        download(["cifar10"], data, nowhere)
    download(["cifar10"], data, hub.endpoint)
    assert check(data, [CIFAR], checksums=True) == []


def test_two_at_once_fetch_everything_once(hub: Hub, data: Path) -> None:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            download(EVERYTHING, data, hub.endpoint, threads=2)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted({name for name, _ in hub.requests}) == sorted(name for name, _ in hub.requests)
    assert contents(data) == source_of(hub)


def test_check_names_what_is_missing_or_damaged(hub: Hub, data: Path) -> None:
    download(EVERYTHING, data, hub.endpoint)
    folder = data / CIFAR.folder
    with open(folder / "test" / "0.tar", "r+b") as handle:
        handle.write(b"?")
    os.truncate(folder / "test" / "1.tar", 10)
    (folder / "classnames.txt").unlink()
    (data / GEODE.folder / MANIFEST_NAME).write_text("{}")
    chosen = select_tasks([*EVERYTHING, "mnist"])
    quick = check(data, chosen)
    assert sorted(quick) == sorted([
        f"cifar10: {folder}/classnames.txt is missing",
        f"cifar10: {folder}/test/1.tar has 10 bytes, not 10240",
        f"mnist: {data / TASKS['mnist'].folder} does not exist",
        f"fairness/geode: {data / GEODE.folder / MANIFEST_NAME} cannot be read ('files')",
    ])  # fmt: skip
    damaged = f"cifar10: {folder}/test/0.tar is damaged: its SHA-256 is not the manifest's"
    assert set(check(data, chosen, checksums=True)) == {*quick, damaged}


def test_check_without_a_manifest(data: Path) -> None:
    write_task(data / CIFAR.folder, [sample("red", 0)] * 3, num_shards=3)
    assert check(data, [CIFAR]) == []
    (data / CIFAR.folder / "test" / "1.tar").unlink()
    (data / CIFAR.folder / "classnames.txt").unlink()
    names = ("classnames.txt", "test/1.tar")
    assert check(data, [CIFAR]) == [f"cifar10: {data / CIFAR.folder / name} is missing" for name in names]
    (data / CIFAR.folder / "test" / "nshards.txt").write_text("one")
    assert "not a number of shards" in check(data, [CIFAR])[0]


def test_a_full_disk_is_told_before_anything_is_fetched(hub: Hub, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", ("total", "used", "free"))
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(1, 1, 100))
    with pytest.raises(ClipsiftError, match="GB are to come"):
        download(EVERYTHING, data, hub.endpoint)
    assert hub.requests == []


@pytest.mark.slow
def test_the_program_fetches_from_hf_endpoint(hub: Hub, data: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "clipsift.py"), "evaluate", "--download", f"--data={data}"]
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(data / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--tasks=cifar10,fairness/geode"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "download: " in done.stderr
    assert check(data, [CIFAR, GEODE], checksums=True) == []
    failed = subprocess.run([*command, "--tasks=cifar10,mnist"], env=environment, capture_output=True, text=True)
    assert failed.returncode == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("clipsift: error: evaluation sets: 1 missing")
    assert "djghosh/wds_mnist_test" in last
