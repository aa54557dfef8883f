"""A whole training run: what reaches the model, what it leaves behind, what it refuses."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from tiny_run import NUM_KEPT

from common.clip import load_clip
from training.fit import fit

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
    report = json.loads((tmp_path / "run" / "training" / "data_report.json").read_text())
    assert (report["samples"], report["num_lost"]) == (72, 0)

    loaded = load_clip(str(folder), None)
    direct = open_clip.create_model(f"local-dir:{folder}")
    assert note["weights"] == loaded.fingerprint
    for name, tensor in module.clip.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor)
        assert torch.equal(direct.state_dict()[name], tensor)
