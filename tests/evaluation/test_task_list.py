"""The registry against the census of DataComp's task list."""

from __future__ import annotations

from collections import Counter

import pytest

from clipsift_common.errors import ClipsiftError
from evaluation import TASKS
from evaluation.kinds import KINDS
from evaluation.tasks import GROUPS, SCORED, select_tasks


def test_census() -> None:
    assert (len(TASKS), len(SCORED)) == (40, 38)
    assert sum(task.size for task in TASKS.values()) == 732_026
    assert Counter(TASKS[key].main_metric for key in SCORED) == {
        "acc1": 27,
        "mean_per_class_recall": 4,
        "mean_recall@1": 2,
        "jaccard_score_10-12": 1,
        "F1-macro_all": 1,
        "acc_worst_region": 1,
        "acc_top5_wg": 1,
        "acc_wg": 1,
    }
    sizes = {group: len(members) for group, members in GROUPS.items()}
    assert sizes == {"ImageNet": 1, "ImageNet dist. shifts": 6, "VTAB": 13, "Retrieval": 3}
    assert {task.kind for task in TASKS.values()} == set(KINDS)


def test_folders_are_the_download_scripts() -> None:
    for key, task in TASKS.items():
        if task.kind not in ("retrieval", "winogavil"):
            assert task.folder == f"wds_{key.removeprefix('fairness/').replace('/', '-')}_test"


def test_select() -> None:
    assert [task.key for task in select_tasks(["wilds/*", "imagenet1k", "wilds/fmow"])] == [
        "imagenet1k",
        "wilds/iwildcam",
        "wilds/camelyon17",
        "wilds/fmow",
    ]
    vtab = [task.key for task in select_tasks(["vtab"])]
    assert len(vtab) == 13
    assert "sun397" in vtab
    assert len(select_tasks(["*"])) == 40


def test_select_refuses_what_names_nothing() -> None:
    with pytest.raises(ClipsiftError, match="imagenet2k"):
        select_tasks(["cifar10", "imagenet2k"])
