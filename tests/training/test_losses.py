"""SigLIP's loss against its formula, the moving average against its definition, and what both leave behind."""

from __future__ import annotations

import json
import math

import lightning as L
import open_clip
import pytest
import torch
import torch.nn.functional as F

from clipsift_common.clip import load_clip
from clipsift_common.errors import ClipsiftError
from helpers.training_run import FailAt
from training.fit import fit
from training.loss import contrastive_loss


def features(seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_siglip_is_its_formula():
    image, text, scale, bias = features(0), features(1), torch.tensor(7.0), torch.tensor(-3.0)
    total = 0.0
    for i in range(6):
        for j in range(6):
            logit = (scale * image[i] @ text[j] + bias).item()
            total += math.log1p(math.exp(-logit if i == j else logit))
    loss = contrastive_loss(0, 1, "siglip")
    assert loss(image, text, logit_scale=scale, logit_bias=bias).item() == pytest.approx(total / 6, rel=1e-5)


def test_a_siglip_run(make_data, make_module, machine, tmp_path):
    module = make_module(loss="siglip")
    assert module.clip.logit_scale.item() == pytest.approx(math.log(10))
    assert module.clip.logit_bias.item() == -10
    folder = fit(module, make_data(), tmp_path / "run", machine)
    # At the start the cosines are alike: b positives cost about 10 - 10 cos each, the others next to nothing.
    assert 0 < module.record["loss"][0] < 20
    assert module.record["loss"][-1] < module.record["loss"][0]
    assert module.clip.logit_bias.item() != -10
    loaded = load_clip(str(folder), None).model
    assert torch.equal(loaded.logit_bias, module.clip.logit_bias)
    split = make_module(loss="siglip", accumulate=4)
    fit(split, make_data(), tmp_path / "split", machine)
    assert split.record["loss"] == pytest.approx(module.record["loss"], abs=1e-4)


class KeepWeights(L.Callback):
    """The trained weights after each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps.append({name: tensor.detach().clone() for name, tensor in pl_module.clip.named_parameters()})


def test_the_moving_average_is_exported_and_resumes_exactly(make_data, make_module, machine, tmp_path):
    keep, module = KeepWeights(), make_module(ema=0.8)
    folder = fit(module, make_data(), tmp_path / "whole", machine, options={"callbacks": [keep]})
    plain = make_module()
    fit(plain, make_data(), tmp_path / "plain", machine)
    assert module.record["loss"] == plain.record["loss"]  # training does not notice
    average = keep.steps[0]
    for weights in keep.steps[1:]:
        average = {name: 0.8 * tensor + 0.2 * weights[name] for name, tensor in average.items()}
    exported = load_clip(str(folder), None).model.state_dict()
    for name, tensor in average.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-5, atol=1e-7)
    assert not torch.equal(exported["visual.proj"], keep.steps[-1]["visual.proj"])

    first, second = make_module(ema=0.8), make_module(ema=0.8)
    with pytest.raises(ZeroDivisionError):
        fit(first, make_data(), tmp_path / "run", machine, checkpoint_steps=1, options={"callbacks": [FailAt(4)]})
    again = fit(second, make_data(), tmp_path / "run", machine)
    assert first.record["loss"] + second.record["loss"] == module.record["loss"]
    assert (again / "open_clip_model.safetensors").read_bytes() == (folder / "open_clip_model.safetensors").read_bytes()


def test_killed_before_the_export_the_average_is_not_lost(make_data, make_module, machine, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("training.fit.export_model", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fit(make_module(ema=0.8), make_data(), tmp_path / "run", machine)
    folder = fit(make_module(ema=0.8), make_data(), tmp_path / "run", machine)
    whole = fit(make_module(ema=0.8), make_data(), tmp_path / "whole", machine)
    assert (folder / "open_clip_model.safetensors").read_bytes() == (whole / "open_clip_model.safetensors").read_bytes()


def test_the_other_weights_file_loads_too(make_data, make_module, machine, tmp_path, workspace):
    module = make_module()
    folder = fit(module, make_data(samples_seen=8), tmp_path / "run", machine)
    model = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "again.json").write_text(json.dumps(model))
    open_clip.add_model_config(tmp_path / "again.json")
    loaded = open_clip.create_model("again", pretrained=str(folder / "open_clip_model.pt"))
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in module.clip.state_dict().items())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_that_averages_nothing_is_refused(make_module, decay):
    with pytest.raises(ClipsiftError, match=r"model\.ema: the decay is in \[0, 1\)"):
        make_module(ema=decay)


@pytest.mark.slow
def test_compiled_it_trains_the_same(make_data, make_module, machine, tmp_path):
    plain, compiled = make_module(), make_module(compile=True)
    fit(plain, make_data(), tmp_path / "plain", machine)
    folder = fit(compiled, make_data(), tmp_path / "compiled", machine)
    assert compiled.record["loss"] == pytest.approx(plain.record["loss"], abs=1e-4)
    assert load_clip(str(folder), None).model.state_dict().keys() == plain.clip.state_dict().keys()
