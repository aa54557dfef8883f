"""``decode: gpu`` on a GPU that is not there: torchvision's decoder on the CPU stands in for nvJPEG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.io import decode_jpeg

from clipsift_common.errors import ClipsiftError
from helpers.machines.simulated_gpu import DEVICE, Simulated, SimulatedGPU, simulated
from helpers.pictures import picture
from helpers.pools import sample
from helpers.tars import write_tar
from selection.subset import Subset
from selection.uids import parse_uids
from training import PoolDataModule
from training.loading import gpu_decode
from training.loading.encoded import EncodedDataset

NUM, BATCH = 24, 8
END, PROGRESSIVE = b"\xff\xd9", b"\xff\xc2"  # marks of a JPEG


def jpeg(number: int, **how: Any) -> bytes:
    return picture(number, (70 + number, 60), **how)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colour JPEGs, and what is decoded elsewhere: a PNG, a grey one, one that the GPU refuses; two that are damaged,
    one of them with a mark at its end."""
    folder = tmp_path_factory.mktemp("pool")
    odd: dict[int, dict[str, Any]] = {
        3: {"jpg": None, "png": picture(3, (70, 60), "PNG")},
        7: {"jpg": jpeg(7, mode="L")},
        11: {"jpg": jpeg(11, progressive=True)},
        15: {"jpg": jpeg(15)[:600]},
        19: {"jpg": jpeg(19)[:600] + END},
    }
    members = [
        member
        for number in range(1, NUM + 1)
        for member in sample(f"{number:04d}", number, **odd.get(number, {"jpg": jpeg(number)}))
    ]
    write_tar(folder / "shards" / "0.tar", members)
    Subset(parse_uids([f"{number:032x}" for number in range(1, NUM + 1)])).save(folder / "subset.npy")
    return folder


@pytest.fixture
def make(pool: Path, workspace: Path, tmp_path: Path) -> Callable[..., PoolDataModule]:
    def made(decode: str, device: torch.device) -> PoolDataModule:
        data = PoolDataModule(
            str(pool), str(tmp_path), str(workspace / "tiny.json"), 6 * BATCH, BATCH, 0, decode=decode,  # type: ignore[arg-type]
            subset=str(pool / "subset.npy"), max_loss=1.0, cache=str(pool / "cache"),
        )  # fmt: skip
        strategy = SimpleNamespace(root_device=device)
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)  # type: ignore[assignment]
        data.setup("fit")
        return data

    return made


@pytest.fixture
def nvjpeg(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many JPEGs each call was given."""
    calls = []

    def decode(jpegs: list[torch.Tensor], mode: Any, device: torch.device) -> list[torch.Tensor]:
        assert device == DEVICE
        calls.append(len(jpegs))
        if any(PROGRESSIVE in part.numpy().tobytes() for part in jpegs):
            raise RuntimeError("nvjpegDecode failed: 2")
        return [simulated(decode_jpeg(part, mode)) for part in jpegs]  # which raises for one that ends early

    monkeypatch.setattr(gpu_decode, "decode_jpeg", decode)
    return calls


def test_the_batches_are_those_of_the_cpu(make: Callable[..., PoolDataModule], nvjpeg: list[int]) -> None:
    plain = make("fast", torch.device("cpu")).train_dataloader()
    expected = list(plain)
    with SimulatedGPU() as gpu:
        loader = make("gpu", DEVICE).train_dataloader()
        found = [_on_cpu(batch) for batch in loader]
    assert gpu.streams.races == []
    assert len(found) == len(expected) == 6
    for mine, other in zip(found, expected):
        assert torch.equal(mine["uid"], other["uid"])
        assert torch.equal(mine["text"], other["text"])
        assert mine["lengths"].tolist() == other["text_lengths"].values.tolist()
        assert mine["image"].dtype == torch.uint8
        assert (mine["image"].int() - other["image"].int()).abs().max() <= 2
    assert loader.report.lost == plain.report.lost
    assert {event["key"] for events in plain.report.examples.values() for event in events} == {"0015", "0019"}
    assert loader.report.samples == plain.report.samples
    assert max(nvjpeg) >= BATCH - 3  # in batches
    details = [event["detail"] for event in loader.report.examples["decoder_remark"]]
    assert {detail.split(":")[0] for detail in details} == {"no whole colour JPEG", "refused by the GPU"}


def _on_cpu(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors of a batch, all of which are on the GPU, and its lengths, which are not."""
    lengths = batch.pop("text_lengths")
    assert all(isinstance(value, Simulated) for value in batch.values())
    return {name: value.values for name, value in batch.items()} | {"lengths": torch.from_numpy(lengths.values)}


def test_a_worker_sends_bytes(make: Callable[..., PoolDataModule], nvjpeg: list[int]) -> None:
    with SimulatedGPU():
        dataset = make("gpu", DEVICE).train_dataloader().dataset
    assert isinstance(dataset, EncodedDataset)
    for (batch, _), (other, _) in zip(
        DataLoader(dataset, None, sampler=range(3), num_workers=1), map(dataset.__getitem__, range(3))
    ):
        mine, theirs = batch["image"], other["image"]
        assert torch.equal(mine.jpegs, theirs.jpegs)
        assert torch.equal(mine.pixels, theirs.pixels)
        assert (mine.pictures, mine.sizes) == (theirs.pictures, theirs.sizes)
        assert len(mine.jpegs) < BATCH * 32 * 32 * 3


def test_where_it_cannot_be_it_is_refused_in_one_line(
    make: Callable[..., PoolDataModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ClipsiftError, match=r"^data.decode: gpu needs a GPU; take fast$"):
        make("gpu", torch.device("cpu")).train_dataloader()

    def without(*_: Any) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support\nmore")

    monkeypatch.setattr(gpu_decode, "decode_jpeg", without)
    with pytest.raises(ClipsiftError, match=r"^data.decode: gpu: .* not compiled with nvJPEG support\); take fast$"):
        make("gpu", DEVICE).train_dataloader()


def test_memory_that_runs_out_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_decode, "decode_jpeg", full)
    with pytest.raises(torch.OutOfMemoryError):
        gpu_decode.decode_jpegs([torch.zeros(3, dtype=torch.uint8)] * 2, DEVICE)
