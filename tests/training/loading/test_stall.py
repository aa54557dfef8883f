"""A wait that lasts too long names rank, worker and shard."""

from __future__ import annotations

import time

import pytest

from helpers.training_run import uid_of
from selection.subset import Subset
from selection.uids import parse_uids
from training.loading.stall import StallTimer


@pytest.mark.parametrize("workers", [0, 2])
def test_names_who_is_waited_for(make_data, tmp_path, monkeypatch, caplog, workers):
    Subset(parse_uids([uid_of(number) for number in range(14, 28)])).save(tmp_path / "second.npy")
    data = make_data(subset=str(tmp_path / "second.npy"), workers=workers, stall_seconds=0.2)
    data.setup("fit")
    loader = data.train_dataloader()
    decode = loader.dataset.transform.__class__.__call__

    def slow(transform, image, place, out, remarks):
        if place == 8:  # the first sample of the second step
            time.sleep(1.0)
        return decode(transform, image, place, out, remarks)

    monkeypatch.setattr(loader.dataset.transform.__class__, "__call__", slow)
    batches = iter(loader)
    next(batches)
    assert "no batch" not in caplog.text
    next(batches)
    who = "worker 1, which reads" if workers else "itself, reading"
    assert f"no batch for 0.2 s: step 2 of rank 0 waits for {who} " in caplog.text
    assert "00000001.tar" in caplog.text
    batches.close()


def test_says_it_again_and_ends():
    timer, said = StallTimer(0.05, lambda: said.append(1) or "someone"), []
    with timer.running():
        timer.start()
        time.sleep(0.3)
        timer.stop()
        assert 3 <= len(said) <= 6
        time.sleep(0.1)
        count = len(said)
    time.sleep(0.1)
    assert len(said) == count
