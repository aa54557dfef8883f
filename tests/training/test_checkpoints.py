"""A run resumes from the checkpoint that was written, or says that it is another."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from helpers.training_run import FailAt, RecordingCLIP
from training.checkpoints import check_settings, list_earlier, stamp_settings
from training.fit import fit

FitAgain = Callable[..., RecordingCLIP]


@pytest.mark.parametrize("part", ["weights", "optimizer"])
def test_a_flipped_bit_is_refused(tmp_path: Path, part: str) -> None:
    checkpoint = {"weights": torch.ones(5000), "optimizer": {"moment": torch.ones(300)}}
    stamp_settings(checkpoint, {"a": 1})
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint, path)
    check_settings(path, {"a": 1})
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(f"last/data/{['weights', 'optimizer'].index(part)}")
    content = bytearray(path.read_bytes())
    content[record.header_offset + 200] ^= 8
    path.write_bytes(content)
    with pytest.raises(ClipsiftError, match=r"last\.ckpt: is no checkpoint .*; delete it to train from the one before"):
        check_settings(path, {"a": 1})


def stopped_at_seven(fit_again: FitAgain, keep: int = 2) -> list[float]:
    """A run of nine steps that saves at every second and fails in its eighth; its losses."""
    module = fit_again(checkpoint_steps=2, checkpoint_keep=keep, options={"callbacks": [FailAt(7)]})
    return module.record["loss"]


@pytest.fixture
def fit_again(make_data, make_module, machine, tmp_path) -> FitAgain:
    """Start the run of ``tmp_path/run`` once more, with a failure that is meant; its module."""

    def start(**options):
        module = make_module()
        with suppress(ZeroDivisionError):
            fit(module, make_data(), tmp_path / "run", machine, **options)
        return module

    return start


@pytest.mark.parametrize(("keep", "earlier"), [(1, []), (2, [4]), (3, [4, 2]), (9, [4, 2])])
def test_so_many_checkpoints_are_kept(fit_again: FitAgain, tmp_path: Path, keep: int, earlier: list[int]) -> None:
    stopped_at_seven(fit_again, keep)
    training = tmp_path / "run/training"
    found = [torch.load(path, weights_only=True)["global_step"] for path in list_earlier(training)]
    assert found == earlier
    assert torch.load(training / "last.ckpt", weights_only=True)["global_step"] == 6


@pytest.mark.parametrize("where", ["header", "weights", "optimizer", "loops", "directory", "cut"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    fit_again: FitAgain, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    losses = stopped_at_seven(fit_again)
    path = tmp_path / "run/training/last.ckpt"
    flip(path, where)
    again = fit_again().record["loss"]
    assert (len(again), again[:3]) == (9 - 4, losses[4:])
    assert f"{path}: is no checkpoint of clipsift's, or damaged" in caplog.text
    assert "resumes from" in caplog.text
    assert "step-000000004.ckpt" in caplog.text


def test_without_a_whole_one_nothing_is_trained(fit_again: FitAgain, tmp_path: Path) -> None:
    stopped_at_seven(fit_again)
    training = tmp_path / "run/training"
    for path in (training / "last.ckpt", *list_earlier(training)):
        flip(path, "weights")
    with pytest.raises(ClipsiftError, match=r"last\.ckpt: is no checkpoint"):
        fit_again()


def test_rows_of_metrics_that_are_gone_are_said(
    fit_again: FitAgain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped_at_seven(fit_again)
    (tmp_path / "run/training/metrics.csv").unlink()
    fit_again(options={"log_every_n_steps": 1})
    assert "metrics.csv: the rows from step 1 to 6 are gone" in caplog.text


def flip(path: Path, where: str) -> None:
    """Damage a checkpoint: one byte of a record, of the first header or of the list of records; or its end is gone."""
    content = bytearray(path.read_bytes())
    path.unlink()  # it may be a link to another name
    if where == "cut":
        path.write_bytes(content[: len(content) // 2])
        return
    if where == "header":
        place = 27  # of the name's length: where the content begins
    elif where == "directory":
        place = content.rindex(b"PK\x01\x02") + 16  # a checksum
    else:
        place = place_in(content, where)
    content[place] ^= 8
    path.write_bytes(content)


def place_in(content: bytes, where: str) -> int:
    """A place in the largest tensor, the second largest, or in what is no tensor."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensors = sorted((one for one in archive.infolist() if "/data/" in one.filename), key=lambda one: one.file_size)
        loops = next(one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
    record = {"loops": loops, "weights": tensors[-1], "optimizer": tensors[-2]}[where]
    return content.index(record.filename.encode(), record.header_offset) + len(record.filename) + 200
