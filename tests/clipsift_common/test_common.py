from __future__ import annotations

import io
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipsift_common.data_report import DataReport
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import atomic_path, fingerprint, read_json, wait_for, write_json, writing
from clipsift_common.images import ImageError, decode_image
from clipsift_common.progress import Progress, format_duration, track
from helpers.pictures import picture


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_nan_is_no_json_and_damaged_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    (tmp_path / "y.json").write_text("{")
    with pytest.raises(ClipsiftError, match=r"y\.json"):
        read_json(tmp_path / "y.json")


def test_fingerprints_ignore_the_order_of_keys_only() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1}) != fingerprint({"a": 2, "b": 1})


def test_images_are_bounded_whole_and_of_known_formats() -> None:
    assert decode_image(picture(0, format="PNG", mode="P")).mode == "RGB"
    assert decode_image(picture(0, mode="CMYK")).mode == "RGB"
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    for data, cause in (
        (bomb.getvalue(), "image_too_large"),
        (picture(0)[:200], "broken_image"),
        (picture(0, format="GIF"), "broken_image"),
        (picture(0, format="TIFF"), "broken_image"),
        (b"not an image", "broken_image"),
        (b"", "broken_image"),
    ):
        with pytest.raises(ImageError) as caught:
            decode_image(data)
        assert caught.value.cause == cause


def test_reports_add_up_and_have_a_limit() -> None:
    report, other = DataReport(), DataReport()
    report.samples, other.samples = 900, 100
    report.lose("broken_image", "0001", "a", "why")
    other.lose("missing_caption", "0002", "b", count=9)
    other.ignore("pkl member", "0002", "c.pkl")
    report.merge(other.as_dict())
    assert (report.samples, report.num_lost, report.loss) == (1000, 10, 0.01)
    report.check(0.01)
    with pytest.raises(ClipsiftError, match=r"10 of 1000 samples lost \(1\.00%; missing_caption 9, broken_image 1\)"):
        report.check(0.009)
    assert DataReport.from_dict(report.as_dict()).as_dict() == report.as_dict()


def test_progress_shows_rate_eta_and_notes(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("embed", 100, "pairs") as progress:
        progress.resume(40)
        progress.advance(60, skipped=3)
    line = capsys.readouterr().err.strip()
    assert line.startswith("embed: 100/100 (100%) | ")
    assert "pairs/s" in line
    assert line.endswith("skipped 3")
    assert (format_duration(59.6), format_duration(3725)) == ("1:00", "1:02:05")


@pytest.mark.parametrize(
    ("message", "line"), [("one", "one"), ("\n  two \nmore", "two"), ("", "ValueError"), (" \n", "ValueError")]
)
def test_first_line_of_an_error(message: str, line: str) -> None:
    assert first_line(ValueError(message)) == line


def _numpy(path: Path) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, np.zeros(100_000))


def _torch(path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save(torch.zeros(100_000), temporary)


def _safetensors(path: Path) -> None:
    with atomic_path(path) as temporary:
        save_file({"a": torch.zeros(100_000)}, temporary)


def _parquet(path: Path) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(pa.table({"a": np.random.default_rng(0).random(100_000)}), temporary)


def _append(path: Path) -> None:
    with writing(path), open(path, "a") as handle:
        handle.write("a" * 100_000)


def _json(path: Path) -> None:
    write_json(path, "a" * 100_000)


@pytest.mark.parametrize("write", [_numpy, _torch, _safetensors, _parquet, _json, _append])
def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(ClipsiftError, match=r"folder/x: cannot be written \(.+\); mend that") as caught:
        write(small_disk / "folder" / "x")
    assert "\n" not in str(caught.value)
    assert write is _append or os.listdir(small_disk / "folder") == []


def test_what_a_block_could_not_read_is_not_blamed_on_what_it_writes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x") as temporary:
        temporary.write_bytes(Path("/nowhere/y").read_bytes())


def test_a_file_of_another_rank_is_waited_for_but_not_for_ever(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(wait_for, tmp_path / "late", seconds=20)
        (tmp_path / "late").write_text("")
        assert waiting.result() is None
    with pytest.raises(ClipsiftError, match="absent: another rank wrote it and it is not here"):
        wait_for(tmp_path / "late", tmp_path / "absent", seconds=0.2)


class _Refusing(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: int) -> None:
        raise ClipsiftError("a.tar: is gone (ClipsiftError: no joke); fetch it")


def test_an_error_from_a_worker_process_is_one_line() -> None:
    with pytest.raises(ClipsiftError) as caught:
        list(torch.utils.data.DataLoader(_Refusing(), batch_size=None, num_workers=1))
    assert str(caught.value) == "a.tar: is gone (ClipsiftError: no joke); fetch it"


def test_brief_work_is_silent_unless_it_lasts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("clipsift_common.progress.time.monotonic", lambda: now[0])
    assert list(track("abc", "join", unit="letters", brief=True)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    for _ in track("abc", "join", unit="letters", brief=True):
        now[0] += 20
    assert "join: 2/3 (67%)" in (said := capsys.readouterr().err)
    assert said.splitlines()[-1].startswith("join: 3/3 (100%)")
