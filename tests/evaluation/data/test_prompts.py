"""clip_benchmark's prompts for folders without: the right ones, and no others than those that are pinned."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import pytest

from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from evaluation import TASKS, evaluate
from evaluation.data import prompts
from evaluation.data.prompts import CLASSNAMES, TEMPLATES, packaged_lines, read_classnames, read_templates
from helpers.colours import sample, toy_clip
from helpers.evaluation_sets import write_task


def test_the_installed_package_is_the_one_that_is_pinned() -> None:
    """The hashes are those of clip_benchmark 1.6.2's files: taken here from what its own code would read."""
    import clip_benchmark

    folder = Path(clip_benchmark.__file__).parent / "datasets"
    for name, expected in prompts.SHA256.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected


def test_numbers_of_classes_are_datacomps() -> None:
    lines = {key: packaged_lines(task, CLASSNAMES) for key, task in TASKS.items()}
    found = {key: len(names) for key, names in lines.items() if names}
    assert found == {key: TASKS[key].classes for key in found}
    assert len(found) == 15
    assert lines["imagenet_sketch"] == lines["imagenetv2"] == lines["imagenet1k"]
    distance = ["very nearby", "nearby", "near", "", "distant", "very distant"]
    assert lines["vtab/clevr_closest_object_distance"] == distance


def test_templates() -> None:
    counts = {key: len(packaged_lines(task, TEMPLATES) or []) for key, task in TASKS.items()}
    assert {key for key, count in counts.items() if count == 80} == {
        "imagenet1k", "imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet",
    }  # fmt: skip
    assert {key.partition("/")[0] for key, count in counts.items() if not count} == {
        "retrieval", "misc", "wilds", "fairness",
    }  # fmt: skip
    assert packaged_lines(TASKS["vtab/clevr_count_all"], TEMPLATES) == ["a picture of {c} objects"]


def test_folder_without_gets_them_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="clipsift")
    assert read_classnames(TASKS["vtab/pcam"], tmp_path)[1] == "lymph node containing metastatic tumor tissue"
    assert read_templates(TASKS["mnist"], tmp_path) == ['a photo of the number: "{c}".']
    assert [record.args[0] for record in caplog.records if record.args] == ["PatchCamelyon", "MNIST"]
    with pytest.raises(ClipsiftError, match=r"cifar10: .*classnames\.txt cannot be read"):
        read_classnames(TASKS["cifar10"], tmp_path)


def test_own_lines_win(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("red\n")
    assert read_classnames(TASKS["mnist"], tmp_path) == ["red"]


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / CLASSNAMES).write_text(json.dumps({"mnist": ["nought"]}))
    monkeypatch.setattr(prompts, "_package", lambda: tmp_path)
    with pytest.raises(ClipsiftError, match=r"mnist: .* is not clip_benchmark 1\.6\.2's"):
        packaged_lines(TASKS["mnist"], CLASSNAMES)


def test_a_task_without_class_names_is_evaluated(tmp_path: Path, machine: Machine) -> None:
    folder = write_task(tmp_path / TASKS["mnist"].folder, [sample("red", 9)])
    (folder / "classnames.txt").unlink()
    [result] = evaluate(toy_clip(), tmp_path, workers=0, machine=machine)
    assert result["random"] == TASKS["mnist"].random  # ten classes, not the toy's three
