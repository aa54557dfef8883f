"""Stopped anywhere, a run goes on with the very next batch: same samples, same loss to the last bit."""

from __future__ import annotations

import csv
import json
import os
import signal

import lightning as L
import pytest
import torch

from clipsift_common.ends.stop import INTERRUPTED, REQUEUE
from clipsift_common.errors import ClipsiftError
from helpers.training_run import FailAt
from training.fit import fit
from training.supervisor import Interrupted

LOG_ALL = {"log_every_n_steps": 1}


@pytest.fixture(scope="module")
def uninterrupted(workspace, tmp_path_factory):
    """Record, final weights and metrics of a run that nothing disturbed."""
    from clipsift_common.machine import Machine
    from helpers.training_run import RecordingCLIP, data_options
    from training import PoolDataModule

    out = tmp_path_factory.mktemp("uninterrupted")
    module = RecordingCLIP(str(workspace / "tiny.json"))
    fit(module, PoolDataModule(**data_options(workspace, out)), out, Machine("cpu", 1), options=LOG_ALL)
    return module.record, module.clip.state_dict(), read_losses(out)


def read_losses(out):
    with open(out / "training" / "metrics.csv", newline="") as handle:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(handle)}


# After 1 step; in the middle; 4 steps hold 32 of the second pass's 29 + 3; before the last; after the last.
@pytest.mark.parametrize(("stop", "workers"), [(1, 1), (3, 0), (4, 3), (8, 1)])
def test_stopped_and_started_again(uninterrupted, make_data, make_module, machine, tmp_path, stop, workers):
    record, weights, losses = uninterrupted
    out, first, second = tmp_path / "run", make_module(), make_module(seed=0)
    with pytest.raises(ZeroDivisionError):
        fit(first, make_data(), out, machine, checkpoint_steps=1, options={"callbacks": [FailAt(stop)], **LOG_ALL})
    fit(second, make_data(workers=workers), out, machine, options=LOG_ALL)
    assert first.record["uids"] + second.record["uids"] == record["uids"]
    assert first.record["loss"] + second.record["loss"] == record["loss"]
    assert read_losses(out) == losses
    for name, tensor in weights.items():
        assert torch.equal(second.clip.state_dict()[name], tensor), name


def test_steps_after_the_last_checkpoint_are_done_again(uninterrupted, make_data, make_module, machine, tmp_path):
    record, _, losses = uninterrupted
    out, again = tmp_path / "run", make_module()
    with pytest.raises(ZeroDivisionError):
        fit(make_module(), make_data(), out, machine, checkpoint_steps=4, options={"callbacks": [FailAt(7)], **LOG_ALL})
    assert max(read_losses(out)) == 7
    fit(again, make_data(), out, machine, options=LOG_ALL)
    assert again.record["loss"] == record["loss"][4:]
    assert read_losses(out) == losses
    assert json.loads((out / "training" / "data_report.json").read_text())["training"]["samples"] == 72


def test_killed_between_last_step_and_export(uninterrupted, make_data, make_module, machine, tmp_path, monkeypatch):
    out, again = tmp_path / "run", make_module()
    with monkeypatch.context() as patch:
        patch.setattr("training.fit.export_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(make_module(), make_data(), out, machine)
    assert not (out / "training" / "training.json").exists()
    fit(again, make_data(), out, machine)
    assert again.record["loss"] == []  # nothing left to train
    assert torch.equal(again.clip.state_dict()["visual.proj"], uninterrupted[1]["visual.proj"])
    assert (out / "training" / "training.json").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_ends_for_requeue(uninterrupted, make_data, make_module, machine, tmp_path, number):
    class Send(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 4:
                os.kill(os.getpid(), number)

    out, first, second, before = tmp_path / "run", make_module(), make_module(), signal.getsignal(number)
    with pytest.raises(Interrupted) as caught:
        fit(first, make_data(), out, machine, options={"callbacks": [Send()], **LOG_ALL})
    assert (caught.value.code, caught.value.step) == (REQUEUE, 5)
    assert signal.getsignal(number) is before
    assert not (out / "training" / "training.json").exists()
    fit(second, make_data(), out, machine, options=LOG_ALL)
    assert first.record["loss"] + second.record["loss"] == uninterrupted[0]["loss"]


def test_saves_by_minutes(make_data, make_module, machine, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        fit(make_module(), make_data(), out, machine, checkpoint_minutes=0, options={"callbacks": [FailAt(2)]})
    assert torch.load(out / "training" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_complete_run_is_left_alone(make_data, make_module, machine, tmp_path):
    folder = fit(make_module(), make_data(), tmp_path / "run", machine)
    stamp = (folder / "open_clip_model.safetensors").stat().st_mtime_ns
    module = make_module(accumulate=2)  # how it is computed is no other experiment
    assert fit(module, make_data(workers=1), tmp_path / "run", machine) == folder
    assert module.record["loss"] == []
    assert (folder / "open_clip_model.safetensors").stat().st_mtime_ns == stamp


@pytest.fixture
def ctrl_c():
    """Ctrl-C as in a terminal; a process that a shell has put in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_during_a_save_saves_once_more_and_ends(make_data, make_module, machine, tmp_path, monkeypatch, ctrl_c):
    saved, save = [], torch.save

    def interrupted(state, handle):
        saved.append(state["global_step"])
        if saved[-1] == 3:
            os.kill(os.getpid(), signal.SIGINT)
        save(state, handle)

    monkeypatch.setattr(torch, "save", interrupted)
    out = tmp_path / "run"
    with pytest.raises(Interrupted) as caught:
        fit(make_module(), make_data(), out, machine, checkpoint_steps=1)
    monkeypatch.undo()
    assert (caught.value.code, saved) == (INTERRUPTED, [1, 2, 3, 4])
    module = make_module()
    fit(module, make_data(), out, machine)
    assert len(module.record["loss"]) == 9 - 4


def test_what_breaks_a_save_leaves_the_checkpoint_before(make_data, make_module, machine, tmp_path, monkeypatch):
    saved, save = [], torch.save

    def broken(state, handle):
        saved.append(state["global_step"])
        if saved[-1] == 3:
            handle.write(b"half of it")
            raise KeyboardInterrupt
        save(state, handle)

    monkeypatch.setattr(torch, "save", broken)
    out = tmp_path / "run"
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        fit(make_module(), make_data(), out, machine, checkpoint_steps=1)
    monkeypatch.undo()
    assert saved == [1, 2, 3]
    assert torch.load(out / "training" / "last.ckpt", weights_only=True)["global_step"] == 2
    assert not list((out / "training").glob(".*"))


def test_a_complete_run_whose_weights_are_others_makes_them_again(make_data, make_module, machine, tmp_path, caplog):
    weights = fit(make_module(), make_data(), tmp_path / "run", machine) / "open_clip_model.safetensors"
    written = weights.read_bytes()
    weights.write_bytes(written[:-1] + bytes([written[-1] ^ 1]))
    module = make_module()
    fit(module, make_data(), tmp_path / "run", machine)
    assert module.record["loss"] == []  # from the last checkpoint
    assert weights.read_bytes() == written
    assert "open_clip_model.safetensors: is not the file that was written" in caplog.text


@pytest.mark.parametrize(
    ("hyper", "changes", "named"),
    [({"lr": 2e-3}, {}, "model.lr"), ({}, {"seed": 4}, "data.seed"), ({}, {"samples_seen": 80}, "data.samples_seen")],
)
def test_other_settings_are_refused(make_data, make_module, machine, tmp_path, hyper, changes, named):
    with pytest.raises(ZeroDivisionError):
        fit(
            make_module(), make_data(), tmp_path / "run", machine, checkpoint_steps=1,
            options={"callbacks": [FailAt(1)]},
        )  # fmt: skip
    with pytest.raises(ClipsiftError, match=rf"last\.ckpt: was written with other settings \({named}\)"):
        fit(make_module(**hyper), make_data(**changes), tmp_path / "run", machine)


def test_damaged_checkpoint_is_refused(make_data, make_module, machine, tmp_path):
    path = tmp_path / "run" / "training" / "last.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(ClipsiftError, match=r"last\.ckpt: is no checkpoint"):
        fit(make_module(), make_data(), tmp_path / "run", machine)
