"""Selection while training: the best of each super-batch by the pool's own scores, the same on every restart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipsift_common.clip import load_clip
from clipsift_common.errors import ClipsiftError
from helpers.training_run import FailAt, make_online, save_teacher
from selection.scores.normsim import normsim
from selection.scores.s_cliploss import s_cliploss
from selection.settings import Teacher
from training.fit import fit
from training.online import Online, OnlineSelection, Shares

STEPS = [
    {"score": "s_cliploss", "temperature": 0.07, "keep": 0.6},
    {"score": "normsim", "p": "inf", "target": "target.npy", "keep": 0.3},
]


@pytest.fixture(scope="module")
def teacher(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(workspace, tmp_path_factory.mktemp("teacher") / "teacher.pt")


def expected(data: Any, steps: int, teacher: Path, workspace: Path) -> list[list[list[int]]]:
    """The uids that each step should train on, from the dataset's super-batches and the scores' own functions."""
    loader, model = data.train_dataloader(), load_clip(str(workspace / "tiny.json"), str(teacher)).model
    mean, std = (torch.tensor(model.visual.preprocess_cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    target = F.normalize(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    chosen = []
    for step in range(steps):
        batch, _ = loader.dataset[step]
        with torch.no_grad():
            image = F.normalize(model.encode_image((batch["image"] / 255 - mean) / std), dim=1)
            text = F.normalize(model.encode_text(batch["text"]), dim=1)
        first = s_cliploss(image, text, 0.07).argsort(descending=True)[: int(0.6 * len(image))]
        second = normsim(image, target, float("inf"))[first].argsort(descending=True)[:8]
        chosen.append(batch["uid"][first[second].sort().values].tolist())
    return chosen


def test_trains_on_the_best_of_each_super_batch_and_resumes(
    make_data, make_module, machine, tmp_path, workspace, teacher
):
    module, data = make_module(), make_data()
    online = make_online(workspace, teacher, STEPS)
    assert online.num_drawn == 27  # 8 / 0.3, rounded up
    fit(module, data, tmp_path / "run", machine, online=online)
    assert module.record["uids"] == expected(data, 9, teacher, workspace)
    note = json.loads((tmp_path / "run" / "training" / "training.json").read_text())
    assert (note["steps"], note["samples_seen"]) == (9, 72)  # trained ones
    report = json.loads((tmp_path / "run" / "training" / "data_report.json").read_text())["training"]
    assert report["samples"] == 9 * 27  # read ones

    first, second, out = make_module(), make_module(), tmp_path / "again"
    with pytest.raises(ZeroDivisionError):
        fit(
            first, make_data(), out, machine, checkpoint_steps=1, online=make_online(workspace, teacher, STEPS),
            options={"callbacks": [FailAt(4)]},
        )  # fmt: skip
    with pytest.raises(ClipsiftError, match=r"written with other settings \(online\.steps\)"):
        fit(make_module(), make_data(), out, machine, online=make_online(workspace, teacher, STEPS[:1]))
    fit(second, make_data(workers=1), out, machine, online=make_online(workspace, teacher, STEPS))
    assert first.record["uids"] + second.record["uids"] == module.record["uids"]
    assert first.record["loss"] + second.record["loss"] == module.record["loss"]


def test_features_do_not_depend_on_how_many_are_encoded(workspace, teacher, make_module, make_data, machine, tmp_path):
    online = make_online(workspace, teacher, STEPS)
    fit(make_module(), make_data(samples_seen=8), tmp_path / "run", machine, online=online)
    image = torch.randint(0, 256, (21, 3, 32, 32), dtype=torch.uint8)
    text = torch.randint(1, 49406, (21, 16))
    whole = online.encode(image, text)
    assert torch.equal(torch.cat([online.encode(image[:5], text[:5]), online.encode(image[5:], text[5:])]), whole)
    larger = F.interpolate(image.float(), (48, 48), mode="nearest").to(torch.uint8)  # another size is the teacher's
    assert online.encode(larger, text).shape == (21, 32)


def test_a_teacher_that_sees_nothing_ends_the_run(make_data, make_module, machine, tmp_path, workspace, teacher):
    weights = torch.load(teacher, weights_only=True)
    weights["visual.proj"].fill_(float("nan"))
    torch.save(weights, tmp_path / "broken.pt")
    with pytest.raises(ClipsiftError, match=r"online: the teacher gives fewer than 8 finite scores at step 1"):
        fit(
            make_module(), make_data(), tmp_path / "run", machine,
            online=make_online(workspace, tmp_path / "broken.pt", STEPS),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([], r"online\.steps: none given"),
        ([{"score": "s_cliploss", "threshold": 0.1}], r"online\.steps\[0\]: only a score with keep"),
        ([{"score": "s_cliploss", "count": 5}], r"online\.steps\[0\]: only a score with keep"),
        ([{"score": "clip_score", "keep": 2}], r"online: selection\.steps\[0\]: keep is a fraction"),
        ([{"score": "random", "keep": 0.5}], r"random is no score of features"),
        ([{"method": "vas_d", "keep": 0.3, "steps": 2}], "only a score with keep"),
        (
            [{"score": "clip_score", "keep": 0.3}, {"score": "s_cliploss", "keep": 0.4}],
            r"online\.steps\[1\]: keeps 0\.4, more than the step before leaves",
        ),
        ([{"score": "normsim", "target": "trusted", "keep": 0.3}], "needs --trusted DIR"),
    ],
)
def test_settings_that_make_no_batches_are_refused(workspace, teacher, steps, message):
    with pytest.raises(ClipsiftError, match=message):
        Online(Teacher(str(workspace / "tiny.json"), str(teacher)), steps).check(None)


def test_a_teacher_with_another_tokenizer_is_refused(workspace, teacher):
    online = Online(Teacher("ViT-B-32", "openai"), STEPS[:1])
    clip = load_clip(str(workspace / "tiny.json"), str(teacher))
    with pytest.raises(ClipsiftError, match="another tokenizer or context length"):
        OnlineSelection(online, online.check(None), clip, lambda name: torch.empty(0), "ViT-B-32", 8, 0)


def test_who_has_and_who_gets_what():
    for world in (1, 2, 4, 8):
        kept = np.sort(np.random.default_rng(world).choice(27, 8, replace=False))
        shares = [Shares(27, 8, rank, world) for rank in range(world)]
        assert shares[0].starts[0] == 0
        assert shares[0].starts[-1] == 27
        assert sum(share.share for share in shares) == 8
        for place in kept:  # every kept sample has exactly one owner
            owners = [r for r in range(world) if shares[0].starts[r] <= place < shares[0].starts[r + 1]]
            assert len(owners) == 1
