"""Batches in shared memory that is used again: never while somebody still looks at it."""

from __future__ import annotations

import gc
import os
import pickle

import pytest
import torch

from clipsift_common.errors import ClipsiftError
from training.fit import fit
from training.loading.slots import PREFETCH, Slots


def test_a_slot_is_free_again_when_the_last_view_is_gone():
    slots = Slots(1, (2, 4, 5, 3))
    taken = [slots.take() for _ in range(PREFETCH + 2)]
    assert sorted(slot.place for slot in taken) == [0, 1, 2, 3]
    assert slots.take() is None
    slots.array(taken[1])[:] = 7
    batch = pickle.loads(pickle.dumps(taken[1])).tensor()  # noqa: S301 - our own bytes
    assert batch.shape == (2, 3, 4, 5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    one = batch[0, 1]
    del batch
    gc.collect()
    assert slots.take() is None
    assert (one == 7).all()
    del one
    gc.collect()
    again = slots.take()
    assert again == taken[1]


def test_a_forked_process_frees_nothing():
    slots = Slots(1, (2, 4, 4, 3))
    batch = slots.take().tensor()
    if (child := os.fork()) == 0:
        del batch
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    assert slots.take().place == 1
    assert batch.shape == (2, 3, 4, 4)


def test_a_pinned_copy_frees_the_slot(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # pinning needs a GPU
    slots = Slots(1, (2, 4, 4, 3))
    taken = [slots.take() for _ in range(PREFETCH + 2)]
    slots.array(taken[0])[:] = 3
    copy = torch.utils.data._utils.pin_memory.pin_memory({"image": taken[0], "text": torch.zeros(2)})
    gc.collect()
    assert slots.take() == taken[0]
    slots.array(taken[0])[:] = 4
    assert (copy["image"] == 3).all()


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_that_somebody_keeps_stay_as_they_are(make_data, workers):
    """A consumer may hold on to all of them: what no longer finds a slot comes as DataLoader sends it."""
    ours, reference = make_data(workers=workers), make_data(workers=0)
    kept = []
    for data in (ours, reference):
        data.setup("fit")
        kept.append(list(data.train_dataloader()))
    assert len(kept[0]) > workers * PREFETCH + 2
    for one, other in zip(*kept):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in ("image", "text", "uid"))
        assert one["image"].is_contiguous(memory_format=torch.channels_last)


def test_memory_is_used_again(make_data):
    data = make_data(workers=1)
    data.setup("fit")
    places = [batch["image"].data_ptr() for batch in data.train_dataloader()]
    assert len(places) > PREFETCH + 2
    assert len(set(places)) <= PREFETCH + 2


def test_workers_of_two_loaders_do_not_share(make_data):
    first, second = make_data(workers=1), make_data(workers=1, seed=5)
    loaders = []
    for data in (first, second):
        data.setup("fit")
        loaders.append(data.train_dataloader())
    expected = [[loader.dataset[step][0]["image"] for step in range(3)] for loader in loaders]
    for step, batches in enumerate(zip(*loaders)):
        for number, batch in enumerate(batches):
            if step < 3:
                assert torch.equal(batch["image"], expected[number][step])


def test_no_room_in_shared_memory_is_a_clear_end(make_data, make_module, machine, tmp_path, monkeypatch):
    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", full)
    with pytest.raises(ClipsiftError, match=r"/dev/shm has no room for 4 batches of 0 MB .* --shm-size"):
        fit(make_module(), make_data(workers=1), tmp_path / "run", machine)
