"""Two ranks: the same global batches and numbers as one, stops and goes on as one, never hangs."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_golden import check_golden

from clipsift_common.ends.stop import REQUEUE
from clipsift_common.machine import Machine
from helpers.machines.ranks import run_ranks, script_environment
from helpers.training_run import FailAt, RecordingCLIP, data_options, make_online, save_teacher
from training.data import PoolDataModule
from training.fit import fit

pytestmark = pytest.mark.slow

LOG_ALL = {"log_every_n_steps": 1}
SCRIPT = Path(__file__).with_name("two_ranks.py")


def train_here(workspace: Path, out: Path, options: dict[str, Any] | None = None, **hyper: Any) -> RecordingCLIP:
    module = RecordingCLIP(str(workspace / "tiny.json"), **hyper)
    data = PoolDataModule(**data_options(workspace, out))
    fit(module, data, out, Machine("cpu", 1), checkpoint_steps=1, options=LOG_ALL | (options or {}))
    return module


@pytest.fixture(scope="module")
def one(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> RecordingCLIP:
    return train_here(workspace, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def out(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what ``two_ranks.py`` wrote."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(ZeroDivisionError):
        train_here(workspace, folder / "second_half", {"callbacks": [FailAt(4)]})
    save_teacher(workspace, folder / "teacher.pt")
    golden = Path(__file__).resolve().parents[3] / "shared" / "golden" / "training"
    run_ranks(SCRIPT, [workspace, folder, *([golden] if golden.is_dir() else [])], 2, timeout=400)
    return folder


def records(out: Path, job: str) -> list[dict[str, Any]]:
    return [json.loads((out / f"{job}.{rank}.json").read_text()) for rank in range(2)]


def join(parts: list[dict[str, Any]]) -> tuple[list[Any], list[float]]:
    """Uids of the global batches, in rank order, and their losses."""
    uids = [first + second for first, second in zip(parts[0]["uids"], parts[1]["uids"])]
    return uids, [sum(pair) / 2 for pair in zip(parts[0]["loss"], parts[1]["loss"])]


def test_same_global_batches_and_losses(out: Path, one: RecordingCLIP) -> None:
    uids, losses = join(records(out, "whole"))
    assert uids == one.record["uids"]
    assert losses == pytest.approx(one.record["loss"], abs=1e-5)
    logged = (out / "whole" / "training" / "metrics.csv").read_text().splitlines()[1:]
    assert [float(line.split(",")[2]) for line in logged] == pytest.approx(losses, abs=1e-9)
    assert json.loads((out / "whole" / "training" / "data_report.json").read_text())["training"]["samples"] == 72
    assert json.loads((out / "whole" / "training" / "training.json").read_text())["world_size"] == 2


def test_siglip_and_the_moving_average(out: Path, workspace: Path, tmp_path: Path) -> None:
    here = train_here(workspace, tmp_path, loss="siglip", ema=0.8)
    assert join(records(out, "siglip"))[1] == pytest.approx(here.record["loss"], abs=1e-4)
    there = load_file(out / "siglip" / "training" / "model" / "open_clip_model.safetensors")
    for name, tensor in here.clip.state_dict().items():
        if "in_proj_bias" not in name:  # the key's bias: rounding noise
            torch.testing.assert_close(there[name], tensor, rtol=1e-3, atol=1e-4)


def test_both_ranks_choose_what_one_chooses(out: Path, workspace: Path, tmp_path: Path) -> None:
    steps = [{"score": "s_cliploss", "temperature": 0.07, "keep": 0.3}]
    here = RecordingCLIP(str(workspace / "tiny.json"))
    online = make_online(workspace, out / "teacher.pt", steps)
    fit(here, PoolDataModule(**data_options(workspace, tmp_path)), tmp_path, Machine("cpu", 1), online=online)
    parts = records(out, "online")
    assert {len(batch) for part in parts for batch in part["uids"]} == {4}
    uids, losses = join(parts)
    assert uids == here.record["uids"]
    assert losses == pytest.approx(here.record["loss"], abs=1e-5)


def test_a_model_split_over_the_ranks(out: Path, one: RecordingCLIP) -> None:
    uids, losses = join(records(out, "sharded"))
    assert uids == one.record["uids"]
    assert losses == pytest.approx(one.record["loss"], abs=1e-5)
    whole = load_file(out / "sharded" / "training" / "model" / "open_clip_model.safetensors")
    for name, tensor in one.clip.state_dict().items():
        if "in_proj_bias" not in name:  # the key's bias: rounding noise
            torch.testing.assert_close(whole[name], tensor, rtol=1e-3, atol=1e-4)
    halves = [join(records(out, f"sharded_{half}")) for half in ("first", "second")]
    assert halves[0][1] + halves[1][1] == losses  # resumed to the last bit
    assert join(records(out, "sharded_compiled"))[1] == pytest.approx(losses, abs=1e-5)
    assert records(out, "sharded_ema")[1]["error"][1].startswith("model.ema: cannot average a model that")


def test_one_process_goes_on_where_two_stopped(out: Path, one: RecordingCLIP, workspace: Path) -> None:
    stopped = records(out, "first_half")
    assert stopped[0]["error"][0] == stopped[1]["error"][0] == "ZeroDivisionError"
    rest = train_here(workspace, out / "first_half")
    assert join(stopped)[0] + rest.record["uids"] == one.record["uids"]
    assert join(stopped)[1] + rest.record["loss"] == pytest.approx(one.record["loss"], abs=1e-5)
    report = json.loads((out / "first_half" / "training" / "data_report.json").read_text())["training"]
    assert report["samples"] == 72


def test_two_processes_go_on_where_one_stopped(out: Path, one: RecordingCLIP) -> None:
    uids, losses = join(records(out, "second_half"))
    assert uids == one.record["uids"][4:]
    assert losses == pytest.approx(one.record["loss"][4:], abs=1e-5)


def test_a_batch_that_ranks_do_not_divide_is_refused(out: Path) -> None:
    for part in records(out, "indivisible"):
        assert part["error"] == ["ClipsiftError", part["error"][1]]
        assert "2 ranks do not divide 9" in part["error"][1]


def test_rank_0_trains_alone_among_others(out: Path, one: RecordingCLIP) -> None:
    first, second = records(out, "alone")
    assert first["loss"] == one.record["loss"]
    assert second == {}


def test_all_ranks_stop_when_too_much_is_lost(out: Path) -> None:
    for part in records(out, "broken"):
        assert part["error"][0] == "ClipsiftError"
        assert "above max_loss 2.00%" in part["error"][1]
        assert "truncated_image" in part["error"][1]
    report = json.loads((out / "broken" / "training" / "data_report.json").read_text())["training"]
    assert report["lost"].keys() == {"truncated_image"}
    assert {example["key"] for example in report["examples"]["truncated_image"]} == {"000020", "000021", "000022"}


def test_all_ranks_stop_when_a_shard_is_gone(out: Path) -> None:
    for part in records(out, "gone"):
        assert part["error"][0] == "ClipsiftError"
        assert "00000001.tar" in part["error"][1]


@pytest.mark.parametrize("job", ["diverging", "sharded_diverging"])
def test_both_ranks_skip_and_stop_where_one_has_a_fault(out: Path, one: RecordingCLIP, job: str) -> None:
    first, second = records(out, job)
    assert first["error"] == second["error"]
    assert "3 of the last 6 updates were skipped" in first["error"][1]
    uids, losses = join([first, second])
    assert losses[:3] == pytest.approx(one.record["loss"][:3], abs=1e-5)  # the third sees what two updates have made
    assert losses[3] != pytest.approx(one.record["loss"][3], abs=1e-5)
    assert all(map(math.isfinite, losses))
    training = out / job / "training"
    described = json.loads((training / "diverged.json").read_text())
    assert [entry["step"] for entry in described] == [3, 5, 6]
    for entry in described:
        batch = [f"{high % 2**64:016x}{low % 2**64:016x}" for high, low in uids[entry["step"] - 1]]
        assert entry["uids"] == batch
    assert torch.load(training / "last.ckpt", weights_only=True)["global_step"] == 4
    assert not (training / "model").exists()


@pytest.mark.parametrize("accumulate", [1, 4])
def test_trajectory_is_open_clips(out: Path, golden: Path, accumulate: int) -> None:
    parts = records(out, f"golden{accumulate}")
    record = parts[0] | {"loss": join(parts)[1]}
    weights = torch.load(out / f"golden{accumulate}.pt", weights_only=True)
    check_golden(golden / "training", accumulate, record, weights)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_the_launcher_saves_on_all_ranks(workspace: Path, tmp_path: Path, number: signal.Signals) -> None:
    """torchrun hands SIGTERM to its workers' whole process groups; SIGUSR1 comes to every rank, as from SLURM."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(SCRIPT), str(workspace), str(tmp_path), "long"]
    launcher = subprocess.Popen(
        command, env=script_environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = tmp_path / "long" / "training" / "metrics.csv"
    try:
        give_up = time.monotonic() + 120
        while not metrics.is_file() or len(metrics.read_text().splitlines()) < 5:
            assert launcher.poll() is None, launcher.communicate()[1]
            assert time.monotonic() < give_up
            time.sleep(0.1)
        if number == signal.SIGTERM:
            launcher.send_signal(number)
        else:
            for rank in ranks_of(launcher.pid):
                os.kill(rank, number)
        errors = launcher.communicate(timeout=60)[1]
    finally:
        launcher.kill()
    assert launcher.returncode != 0
    saved = torch.load(tmp_path / "long" / "training" / "last.ckpt", weights_only=True)["global_step"]
    logged = [int(line.split(",")[0]) for line in metrics.read_text().splitlines()[1:]]
    assert logged == list(range(1, saved + 1)), errors  # stopped right after it saved
    assert saved < 3000
    if number == signal.SIGUSR1:
        assert f"exitcode  : {REQUEUE}" in errors


def ranks_of(launcher: int) -> list[int]:
    """Process ids of a launcher's children."""
    return [int(text) for text in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]
