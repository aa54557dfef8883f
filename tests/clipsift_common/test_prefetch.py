"""Batches one ahead on a GPU: the order of copies and work, and that neither runs into the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from clipsift_common.batches.prefetch import sent_ahead
from helpers.machines.simulated_gpu import DEVICE, Simulated, SimulatedGPU

NUM = 3


def batches() -> Iterator[dict[str, Any]]:
    for number in range(NUM):
        yield {"image": torch.full((2,), float(number)), "names": ["a", "b"], "number": number}


def test_a_batch_is_copied_before_the_one_before_it_is_computed_with() -> None:
    found = []
    with SimulatedGPU() as gpu:
        for batch in sent_ahead(batches(), DEVICE):
            assert isinstance(batch["image"], Simulated)
            found.append((batch["number"], batch["names"], batch["image"].mul(2).values.tolist()))
            del batch
    assert found == [(number, ["a", "b"], [2.0 * number] * 2) for number in range(NUM)]
    copy, work = ("_to_copy", "side"), ("mul", "main")
    assert gpu.streams.log == [copy, copy, work, copy, work, work]
    assert gpu.streams.races == []
    assert gpu.synchronisations == []


def test_what_is_sent_otherwise_is_sent_in_the_same_stream() -> None:
    def doubled(batch: dict[str, Any], device: torch.device) -> torch.Tensor:
        return batch["image"].to(device, non_blocking=True) * 2

    with SimulatedGPU() as gpu:
        found = [batch.values.tolist() for batch in sent_ahead(batches(), DEVICE, doubled)]
    assert found == [[2.0 * number] * 2 for number in range(NUM)]
    assert gpu.streams.log == [("_to_copy", "side"), ("mul", "side")] * NUM


@pytest.mark.parametrize("count", [0, 1])
def test_short_runs_are_whole(count: int) -> None:
    with SimulatedGPU() as gpu:
        assert len(list(sent_ahead(list(batches())[:count], DEVICE))) == count
    assert len(gpu.streams.log) == count


def test_without_a_gpu_nothing_is_fetched_ahead_or_moved() -> None:
    given = []

    def noted() -> Iterator[dict[str, Any]]:
        for batch in batches():
            given.append(batch)
            yield batch

    for number, batch in enumerate(sent_ahead(noted(), torch.device("cpu"))):
        assert batch is given[-1]
        assert len(given) == number + 1


@pytest.mark.parametrize("forgotten", ["wait_event", "record_stream"])
def test_the_simulation_notices_what_is_forgotten(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers.machines.simulated_streams import Stream

    with SimulatedGPU() as gpu:
        monkeypatch.setattr(Stream if forgotten == "wait_event" else Simulated, forgotten, lambda *_: None)
        for batch in sent_ahead(batches(), DEVICE):
            batch["image"].mul(2)
            del batch
    words = {"wait_event": "does not wait", "record_stream": "is free while main uses it"}
    assert len(gpu.streams.races) == NUM
    assert all(words[forgotten] in race for race in gpu.streams.races)
