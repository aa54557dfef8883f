"""A whole training run: what reaches the model, what it leaves behind, what it refuses."""

from __future__ import annotations

import csv
import json
import math
import pickle
import resource
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from clipsift_common.clip import load_clip
from clipsift_common.errors import ClipsiftError
from clipsift_common.machine import Machine
from helpers.tars import write_tar
from helpers.training_run import NUM_KEPT, FailAt, training_sample, uid_of, write_pool
from selection.subset import Subset
from selection.uids import parse_uids
from training.fit import fit
from training.metrics import Metrics
from training.schedule import learning_rate, parameter_groups

LOG_ALL = {"log_every_n_steps": 1}


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "training" / "metrics.csv", newline="") as handle:
        return list(csv.DictReader(handle))


def test_a_run_trains_on_the_subset_and_leaves_what_it_should(make_data, make_module, machine, tmp_path, workspace):
    module, data = make_module(), make_data()
    folder = fit(module, data, tmp_path / "run", machine, options=LOG_ALL)

    kept = {tuple(pair) for pair in np.load(workspace / "subset.npy").view(np.int64).reshape(-1, 2).tolist()}
    flat = [tuple(uid) for batch in module.record["uids"] for uid in batch]
    assert [len(batch) for batch in module.record["uids"]] == [8] * 9
    for number in range(2):  # every kept sample, and nothing else, once per pass; passes run on across batches
        assert Counter(flat[number * NUM_KEPT : (number + 1) * NUM_KEPT]) == Counter(kept)
    assert len(set(flat[2 * NUM_KEPT :])) == len(flat) - 2 * NUM_KEPT

    assert folder == tmp_path / "run" / "training" / "model"
    table = rows(tmp_path / "run")
    assert [int(row["step"]) for row in table] == list(range(1, 10))
    assert [float(row["loss"]) for row in table] == module.record["loss"]
    assert float(table[1]["learning_rate"]) == pytest.approx(1e-3 * 2 / 3)
    assert float(table[0]["logit_scale"]) == pytest.approx(1 / 0.07, rel=0.01)
    assert int(table[-1]["samples_seen"]) == 72
    note = json.loads((tmp_path / "run" / "training" / "training.json").read_text())
    assert (note["steps"], note["samples_seen"], note["subset_size"]) == (9, 72, NUM_KEPT)
    report = json.loads((tmp_path / "run" / "training" / "data_report.json").read_text())["training"]
    assert (report["samples"], report["num_lost"]) == (72, 0)

    loaded = load_clip(str(folder), None)
    direct = open_clip.create_model(f"local-dir:{folder}")
    assert note["weights"] == loaded.fingerprint
    for name, tensor in module.clip.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
        assert torch.equal(direct.state_dict()[name], tensor)


def lose_three(workspace: Path, folder: Path) -> dict[str, str]:
    if not (folder / "broken").is_dir():
        write_pool(folder / "broken", broken=(20, 21, 22))
    return {"pool": str(folder / "broken"), "cache": str(folder / "cache")}


def test_truncated_images_are_replaced_and_counted(make_data, make_module, machine, tmp_path, workspace):
    changes = lose_three(workspace, tmp_path)
    runs = []
    for name, workers in (("a", 0), ("b", 2)):
        module = make_module()
        data = make_data(**changes, out=str(tmp_path / name), workers=workers, max_loss=0.2)
        fit(module, data, tmp_path / name, machine, options=LOG_ALL)
        runs.append(module.record)
    assert runs[0] == runs[1]
    seen = Counter(tuple(uid) for batch in runs[0]["uids"] for uid in batch)
    lost = parse_uids([uid_of(number) for number in (20, 21, 22)]).view(np.int64).reshape(-1, 2).tolist()
    assert sum(seen.values()) == 72
    assert not any(seen[tuple(uid)] for uid in lost)
    report = json.loads((tmp_path / "b" / "training" / "data_report.json").read_text())["training"]
    assert report["lost"] == {"truncated_image": report["num_lost"]}
    assert report["samples"] == 72 + report["num_lost"]
    assert 6 <= report["num_lost"] <= 12  # 2 passes and a half, and a replacement may be broken too
    assert {(e["shard"], e["key"]) for e in report["examples"]["truncated_image"]} == {
        ("00000001", "000020"), ("00000001", "000021"), ("00000001", "000022"),
    }  # fmt: skip
    assert int(rows(tmp_path / "b")[-1]["lost"]) == report["num_lost"]


def test_what_the_decoder_remarks_on_is_trained_on_and_counted(make_data, make_module, machine, tmp_path, workspace):
    members = [member for number in range(42) for member in training_sample(number, junk=bytes(30))]
    write_tar(tmp_path / "junk" / "00000000.tar", members)
    data = make_data(pool=str(tmp_path / "junk"), cache=str(tmp_path / "cache"), workers=1)
    fit(make_module(), data, tmp_path / "junk_run", machine)
    report = json.loads((tmp_path / "junk_run" / "training" / "data_report.json").read_text())["training"]
    assert (report["lost"], report["noted"]) == ({}, {"decoder_remark": 72})


def test_too_many_truncated_images_stop_the_run(make_data, make_module, machine, tmp_path, workspace):
    data = make_data(**lose_three(workspace, tmp_path), max_loss=0.05)
    with pytest.raises(ClipsiftError, match=r"of \d+ samples lost .*truncated_image.*above max_loss 5\.00%"):
        fit(make_module(), data, tmp_path / "run", machine)
    assert not (tmp_path / "run" / "training" / "training.json").exists()


def test_a_pool_of_truncated_images_ends(make_data, make_module, machine, tmp_path):
    write_pool(tmp_path / "bad", broken=tuple(range(42)))
    data = make_data(pool=str(tmp_path / "bad"), cache=str(tmp_path / "cache"), max_loss=1.0)
    with pytest.raises(ClipsiftError, match="no usable image among 100 samples"):
        fit(make_module(), data, tmp_path / "run", machine)


def test_a_subset_that_the_pool_has_nothing_of_is_refused(make_data, make_module, machine, tmp_path):
    Subset(parse_uids([f"{number:032x}" for number in range(1, 6)])).save(tmp_path / "other.npy")
    Subset(parse_uids([])).save(tmp_path / "empty.npy")
    with pytest.raises(ClipsiftError, match="0 of its 5 samples are among the 42 of pool"):
        fit(make_module(), make_data(subset=str(tmp_path / "other.npy")), tmp_path / "run", machine)
    with pytest.raises(ClipsiftError, match=r"empty\.npy is empty"):
        fit(make_module(), make_data(subset=str(tmp_path / "empty.npy")), tmp_path / "run", machine)


def test_a_subset_with_repeats_and_strangers(make_data, make_module, machine, tmp_path, caplog):
    wanted = [uid_of(3)] * 3 + [uid_of(4), f"{1:032x}"]
    Subset(parse_uids(wanted)).save(tmp_path / "few.npy")
    module, data = make_module(), make_data(subset=str(tmp_path / "few.npy"), samples_seen=40)
    fit(module, data, tmp_path / "run", machine)
    seen = Counter(tuple(uid) for batch in module.record["uids"] for uid in batch)
    assert sorted(seen.values()) == [10, 30]
    assert "4 of its 5 samples are in the pool" in caplog.text
    assert "fewer than global_batch 8" in caplog.text


def test_steps_are_rounded_up(make_data):
    assert make_data(samples_seen=72).total_steps == 9
    assert make_data(samples_seen=73).total_steps == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"samples_seen": 0}, "samples_seen"), ({"global_batch": -1}, "global_batch"), ({"max_loss": 1.5}, "max_loss")],
)
def test_impossible_settings_are_refused(make_data, changes, message):
    with pytest.raises(ClipsiftError, match=message):
        make_data(**changes)


def test_loader_refuses_another_order(make_data):
    loaders = []
    for changes in ({}, {"seed": 4}, {"sampling": "resampled"}, {"global_batch": 4}):
        data = make_data(**changes)
        data.setup("fit")
        loaders.append(data.train_dataloader())
    state = loaders[0].state_dict()
    assert state == {"step": 0, "order": loaders[0].order}
    for other in loaders[1:]:
        with pytest.raises(ClipsiftError, match="trained on other data"):
            other.load_state_dict(state)


def test_batches_survive_the_way_to_a_spawned_worker(make_data):
    data = make_data()
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    here, _ = dataset[2]
    there, _ = pickle.loads(pickle.dumps(dataset))[2]  # noqa: S301 - our own bytes
    assert here.pop("text_lengths").values.tolist() == there.pop("text_lengths").values.tolist()
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert here["image"].dtype == torch.uint8
    assert here["image"].shape == (8, 3, 32, 32)
    assert here["text"].shape == (8, 16)
    assert here["uid"].shape == (8, 2)


@pytest.mark.parametrize("hyper", [{"accumulate": 4}, {"grad_checkpointing": True}])
def test_how_it_is_computed_changes_nothing(make_data, make_module, machine, tmp_path, hyper):
    plain, other = make_module(), make_module(**hyper)
    fit(plain, make_data(), tmp_path / "plain", machine)
    fit(other, make_data(), tmp_path / "other", machine)
    assert other.record["loss"] == pytest.approx(plain.record["loss"], abs=1e-5)


def test_accumulation_must_divide_the_share(make_data, make_module, machine, tmp_path):
    with pytest.raises(ClipsiftError, match="accumulate: 3 does not divide"):
        fit(make_module(accumulate=3), make_data(), tmp_path / "run", machine)


def test_a_full_disk_keeps_the_old_checkpoint(make_data, make_module, machine, tmp_path):
    path = tmp_path / "run" / "training" / "last.ckpt"
    with pytest.raises(ZeroDivisionError):
        fit(
            make_module(), make_data(), tmp_path / "run", machine, checkpoint_steps=1,
            options={"callbacks": [FailAt(2)]},
        )  # fmt: skip
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(ClipsiftError, match=r"last\.ckpt: cannot be written .*previous checkpoint is kept"):
            fit(make_module(), make_data(), tmp_path / "run", machine, checkpoint_steps=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir() if "tmp" in file.name] == []


def test_schedule_of_a_run_shorter_than_its_warmup():
    assert [learning_rate(step, 3, 1.0, 4) for step in range(3)] == [0.25, 0.5, 0.75]
    assert learning_rate(0, 10, 2.0, 0) == 2.0
    assert learning_rate(5, 10, 2.0, 0) == pytest.approx(1.0)


def test_parameter_groups_follow_open_clips_rule():
    plain, decayed = parameter_groups(open_clip.create_model("ViT-B-32"), 0.2)
    assert (len(plain["params"]), len(decayed["params"])) == (200, 102)  # as counted on open_clip's own optimizer
    assert (plain["weight_decay"], decayed["weight_decay"]) == (0.0, 0.2)


def test_warns_when_nothing_is_learned(caplog):
    trainer = SimpleNamespace(num_training_batches=1000)
    metrics = Metrics(Path("metrics.csv"), 32, None)
    for step in range(0, 100, 10):
        metrics._warn_if_stuck(trainer, math.log(32) * 1.005, step)
    metrics._warn_if_stuck(trainer, math.log(32) * 0.9, 100)  # it moved
    for step in range(110, 210, 10):
        metrics._warn_if_stuck(trainer, math.log(32) * 0.995, step)
    assert "nothing is learned" not in caplog.text
    for step in range(210, 300, 10):
        metrics._warn_if_stuck(trainer, math.log(32) * 0.995, step)
    assert caplog.text.count("stayed at ln(global_batch) = 3.4657 since step 110") == 1


def test_options_that_change_the_run_are_refused(make_data, make_module, machine, tmp_path):
    with pytest.raises(ClipsiftError, match=r"trainer\.accumulate_grad_batches: leave it out"):
        fit(make_module(), make_data(), tmp_path / "run", machine, options={"accumulate_grad_batches": 2})


def test_trained_anew_on_demand(make_data, make_module, machine, tmp_path):
    fit(make_module(), make_data(), tmp_path / "run", machine)
    module = make_module()
    with pytest.raises(ZeroDivisionError):
        fit(module, make_data(), tmp_path / "run", machine, resume=False, options={"callbacks": FailAt(3)})
    assert len(module.record["loss"]) == 3  # from the start
    assert not (tmp_path / "run" / "training" / "training.json").exists()  # what it said is no longer so


def test_half_precision_and_clipping(make_data, make_module, workspace, tmp_path):
    plain, half = make_module(), make_module()
    fit(plain, make_data(), tmp_path / "plain", Machine("cpu", 1), options={"gradient_clip_val": 0.1})
    fit(half, make_data(), tmp_path / "half", Machine("cpu", 1, precision="bf16-mixed"))
    assert half.record["loss"][0] == pytest.approx(plain.record["loss"][0], abs=0.02)
    assert half.record["loss"][0] != plain.record["loss"][0]
    assert half.record["loss"][-1] != pytest.approx(plain.record["loss"][-1], abs=0.02)  # clipped to a tenth


@pytest.mark.parametrize(
    ("strategy", "hyper", "options", "message"),
    [
        ("deepspeed", {}, {}, r"trainer\.strategy: deepspeed is not supported; take auto, ddp or fsdp"),
        ("fsdp", {"ema": 0.9}, {}, r"model\.ema: cannot average"),
        ("fsdp", {}, {"gradient_clip_val": 1.0}, r"trainer\.gradient_clip_val: is not supported with"),
    ],
)
def test_strategies_that_do_not_go_with_the_rest_are_refused(
    make_data, make_module, tmp_path, strategy, hyper, options, message
):
    with pytest.raises(ClipsiftError, match=message):
        fit(make_module(**hyper), make_data(), tmp_path / "run", Machine("cpu", 1, strategy=strategy), options=options)
