"""Losses and gradients that are not finite: what is skipped, what is kept, when a run is ended."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import open_clip
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file

from clipsift_common.errors import ClipsiftError
from helpers.training_run import FailAt, Faulty
from training.export import export_model
from training.fit import fit
from training.guard import WINDOW, Guard, Step
from training.loading.transform import normalise
from training.schedule import learning_rate, parameter_groups

STEPS = 9
NAN, INF = math.nan, math.inf


@pytest.fixture
def make(workspace: Path) -> Callable[..., Faulty]:
    def make(faults: Sequence[int], loss: float | None = None, gradient: float | None = None, **hyper: Any) -> Faulty:
        whole = {"trim_text": False}  # as the loops by hand, to rounding
        module = Faulty(str(workspace / "tiny.json"), **whole | hyper)
        module.faults, module.added, module.spoilt = faults, loss, gradient
        return module

    return make


class Batches(L.Callback):
    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append({name: batch[name].clone() for name in ("image", "text")})


def by_hand(module: Faulty, batches: Batches, clip: float = 0.0, ema: float = 0.0) -> dict[str, torch.Tensor]:
    """The weights (or their average) of a plain loop that makes no update at the module's faults."""
    model, loss_of = module.clip, open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.2), betas=(0.9, 0.98), eps=1e-6, foreach=False, fused=False)
    average = None
    for step, batch in enumerate(batches.seen, start=1):
        image = normalise(batch["image"], module.mean, module.std)
        loss = loss_of(**model(image, batch["text"]))
        optimizer.zero_grad()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step - 1, len(batches.seen), 1e-3, 3)
        if step not in module.faults:
            optimizer.step()
            model.logit_scale.data.clamp_(0, math.log(100))
        weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        if average is None:
            average = weights
        elif step not in module.faults:
            average = {name: ema * average[name] + (1 - ema) * weight for name, weight in weights.items()}
    assert average is not None
    return average if ema else weights


@pytest.mark.parametrize(
    ("faults", "fault", "hyper", "options"),
    [
        ((3, 6), {"loss": NAN}, {}, {}),
        ((3,), {"loss": INF}, {}, {}),  # a constant: its gradients are finite
        ((1, 8), {"gradient": NAN}, {}, {}),
        ((2, 4, 5), {"gradient": -INF}, {}, {}),
        ((4,), {"gradient": INF}, {"accumulate": 2}, {}),
        ((1, 4, 5), {"gradient": NAN}, {"ema": 0.8}, {}),
        ((5,), {"loss": -INF}, {"ema": 0.8, "grad_checkpointing": True}, {}),
        ((4, 9), {"gradient": INF}, {}, {"gradient_clip_val": 0.1}),
    ],
)  # fmt: skip
def test_a_skipped_update_leaves_no_trace(make, make_data, machine, tmp_path, faults, fault, hyper, options):
    batches, module = Batches(), make(faults, **fault, **hyper)
    folder = fit(module, make_data(), tmp_path / "run", machine, options={"callbacks": [batches]} | options)
    expected = by_hand(make(faults), batches, options.get("gradient_clip_val", 0.0), hyper.get("ema", 0.0))
    for name, tensor in load_file(folder / "open_clip_model.safetensors").items():
        if "in_proj_bias" not in name:  # the key's bias: rounding noise
            # An update moves a weight by about lr = 1e-3; Adam makes rounding of a gradient near 0 visible.
            torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=5e-5)


class State(L.Callback):
    """All that an update may change, after each step."""

    def __init__(self) -> None:
        self.steps: list[list[torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *_: Any) -> None:
        moments = [value for state in trainer.optimizers[0].state.values() for value in state.values()]
        averages = list(pl_module.averages[0].parameters())
        self.steps.append([tensor.detach().clone() for tensor in (*pl_module.parameters(), *moments, *averages)])


def test_nothing_changes_to_the_last_bit(make, make_data, machine, tmp_path):
    state = State()
    fit(make((4, 5), gradient=NAN, ema=0.8), make_data(), tmp_path / "run", machine, options={"callbacks": [state]})
    same = [all(map(torch.equal, before, after)) for before, after in zip(state.steps, state.steps[1:])]
    assert [number for number, is_same in enumerate(same, start=2) if is_same] == [4, 5]


def test_a_run_without_faults_is_what_it_was_without_a_guard(make, make_data, machine, tmp_path, monkeypatch):
    guarded = make(())
    fit(guarded, make_data(), tmp_path / "guarded", machine)
    monkeypatch.setattr(Guard, "on_before_optimizer_step", lambda self, *_: setattr(self, "flag", torch.zeros(())))
    monkeypatch.setattr(Guard, "on_before_backward", lambda *_: None)
    bare = make(())
    fit(bare, make_data(), tmp_path / "bare", machine)
    assert guarded.record == bare.record
    assert all(map(torch.equal, guarded.parameters(), bare.parameters()))


def half(scale: float) -> dict[str, Any]:
    """fp16 with a GradScaler, which Lightning makes for GPUs only."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    return {"plugins": [plugin], "precision": None}


@pytest.mark.parametrize(
    "clipping", [{}, {"gradient_clip_val": 0.1}, {"gradient_clip_val": 1e-4, "gradient_clip_algorithm": "value"}]
)
def test_a_scaler_finds_its_scale(make, make_data, machine, tmp_path, clipping):
    """From 2^18 the first gradients overflow in fp16; each skip halves the scale."""
    module, options = make(()), half(2.0**18) | clipping
    fit(module, make_data(), tmp_path / "run", machine, options=options, checkpoint_steps=1)
    scale = options["plugins"][0].scaler.get_scale()
    skipped = json.loads((tmp_path / "run" / "training" / "training.json").read_text())["skipped_updates"]
    assert scale == 2.0 ** (18 - skipped)
    assert 0 < skipped < STEPS - 1


def test_resumed_it_goes_on_as_if_never_stopped(make, make_data, machine, tmp_path):
    whole = make((2, 5, 6), gradient=NAN, ema=0.8)
    expected = fit(whole, make_data(), tmp_path / "whole", machine)
    for stop in range(1, STEPS):
        out, parts = tmp_path / f"stop{stop}", [make((2, 5, 6), gradient=NAN, ema=0.8) for _ in range(2)]
        with pytest.raises(ZeroDivisionError):
            fit(parts[0], make_data(), out, machine, checkpoint_steps=1, options={"callbacks": [FailAt(stop)]})
        folder = fit(parts[1], make_data(), out, machine)
        losses = [part.record["loss"] for part in parts]
        redone = STEPS - len(losses[1])  # a checkpoint does not hold a skipped step that is its last
        assert redone == max(step for step in range(stop + 1) if step not in (2, 5, 6))
        assert losses[0][:redone] + losses[1] == whole.record["loss"]
        names = ("open_clip_model.safetensors",)
        assert [(folder / name).read_bytes() for name in names] == [(expected / name).read_bytes() for name in names]
        note = json.loads((out / "training" / "training.json").read_text())
        assert note["skipped_updates"] == 3


@pytest.mark.parametrize(
    ("faults", "fault", "max_skipped", "stops", "saved"),
    [
        (range(5, 10), {"loss": NAN}, 2, 7, 4),  # the third in a row
        ((2, 4, 6, 8), {"gradient": INF}, 3, 8, 7),  # not in a row
        ((3,), {"loss": INF}, 0, 3, 2),
        (range(8, 10), {"gradient": NAN}, 20, 9, 7),  # fewer than allowed, but the run would end with them
        (range(1, 10), {"gradient": NAN}, 20, 9, None),
        (range(1, 10), {"loss": NAN}, 1, 2, None),
    ],
)
def test_a_run_that_diverges_ends_and_keeps_its_last_good_checkpoint(
    make, make_data, machine, tmp_path, caplog, faults, fault, max_skipped, stops, saved
):
    module, training = make(faults, **fault), tmp_path / "run" / "training"
    with pytest.raises(ClipsiftError) as stopped:
        fit(module, make_data(), tmp_path / "run", machine, checkpoint_steps=1, max_skipped=max_skipped)
    uids = [f"{high % 2**64:016x}{low % 2**64:016x}" for high, low in module.record["uids"][stops - 1]]
    rate = learning_rate(stops - 1, STEPS, 1e-3, 3)
    message = str(stopped.value)
    assert "\n" not in message
    assert f"step {stops} (learning rate {rate:.3g}, logit scale 14." in message
    assert f"uids {', '.join(uids[:3])}" in message
    assert len(module.record["loss"]) <= stops + 4  # bounded
    described = json.loads((training / "diverged.json").read_text())
    assert [entry["step"] for entry in described] == [step for step in faults if step <= stops]
    assert described[-1]["uids"] == uids
    assert described[-1]["learning_rate"] == pytest.approx(rate)
    assert not (training / "model").exists()
    assert not (training / "training.json").exists()
    if saved is None:
        assert not (training / "last.ckpt").exists()
        assert "no checkpoint was written" in message.lower()
    else:
        kept = torch.load(training / "last.ckpt", weights_only=True)
        assert kept["global_step"] == saved
        assert all(tensor.isfinite().all() for tensor in kept["state_dict"].values())
        assert "the last good checkpoint is kept" in message.lower()
    with pytest.raises(ClipsiftError, match="diverged"):  # nor is it exported by the same command given again
        fit(make(faults, **fault), make_data(), tmp_path / "run", machine, checkpoint_steps=1, max_skipped=max_skipped)


def test_weights_that_overflow_are_not_saved(make, make_data, machine, tmp_path):
    """All gradients are finite, and the step is too long for float32."""

    class Leap(L.Callback):
        def on_before_optimizer_step(
            self, trainer: L.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer
        ) -> None:
            if trainer.global_step == 5:
                optimizer.param_groups[0]["lr"] = INF

    with pytest.raises(ClipsiftError, match=r"weights are no longer finite; last: step 6"):
        fit(make(()), make_data(), tmp_path / "run", machine, checkpoint_steps=1, options={"callbacks": [Leap()]})
    assert torch.load(tmp_path / "run" / "training" / "last.ckpt", weights_only=True)["global_step"] == 5


@pytest.mark.parametrize(("name", "value"), [("visual.proj", NAN), ("logit_scale", INF)])
def test_weights_that_are_not_finite_are_not_exported(make, workspace, tmp_path, name, value):
    module = make(())
    state = module.clip.state_dict()
    state[name].view(-1)[0] = value
    with pytest.raises(ClipsiftError, match=rf"not exported, 1 of {len(state)} weights .*first: {name}\)"):
        export_model(module.clip, str(workspace / "tiny.json"), tmp_path / "model", state)
    assert not (tmp_path / "model").exists()


def skipped(number: int) -> Step:
    return Step(number, 1e-3, torch.tensor([1.0, NAN, 14.0]), None, torch.zeros(8, 2, dtype=torch.int64))


def test_faults_far_apart_are_no_divergence(tmp_path):
    """A GradScaler doubles its scale every 2,000 steps, and overflows then."""
    guard = Guard(tmp_path, max_skipped=1)
    trainer = type("Trainer", (), {"is_global_zero": True, "world_size": 1})()
    for number in (10, 10 + WINDOW, 10 + 2 * WINDOW):
        guard._note(trainer, skipped(number))
    with pytest.raises(ClipsiftError, match="2 of the last 1,000 updates"):
        guard._note(trainer, skipped(9 + 3 * WINDOW))


def test_the_log_stays_small(make, make_data, machine, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "clipsift"):
        fit(make(range(1, 9), loss=NAN), make_data(), tmp_path / "run", machine, options={"callbacks": []})
    lines = [record.getMessage() for record in caplog.records if "the update is skipped" in record.getMessage()]
    assert [line.split("step ")[1].split(" ")[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert lines[-1].endswith("further ones are only counted")
