"""Scores on a GPU that is not there: everything stays on it, the host waits seldom and starts few kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.features import image_text_pairs
from helpers.machines.simulated_gpu import DEVICE, Simulated, SimulatedGPU, WrongDevice, simulated
from selection.kernels import kmeans as kmeans_module, logsumexp
from selection.kernels.kmeans import kmeans
from selection.kernels.logsumexp import Pairs
from selection.kernels.tiles import tiles
from selection.methods.semdedup import semdedup
from selection.methods.vas_d import vas_d
from selection.scores.clip_score import clip_score
from selection.scores.datacomp_image_based import nearest_by_product
from selection.scores.normsim import normsim
from selection.scores.s_cliploss import s_cliploss
from selection.scores.vas import second_moment, vas


def test_the_simulation_notices() -> None:
    """What it is for: work, waiting, and tensors in two places."""
    with SimulatedGPU() as gpu:
        a = torch.arange(6.0, device=DEVICE)
        assert (a.device, a.is_cuda, len(gpu.launches)) == (DEVICE, True, 1)
        b = (a + 1)[2:].view(2, 2)
        assert len(gpu.launches) == 2  # views are no work
        assert gpu.synchronisations == []
        assert b.sum().item() == 18
        assert bool(b[0, 0] > 2)
        assert b.cpu().tolist() == [[3, 4], [5, 6]]
        assert b[b > 4].tolist() == [5, 6]
        assert len(b.unique()) == len((b > 4).nonzero()) + 2
        assert len(gpu.synchronisations) == 7  # item, bool, cpu, by mask, tolist, unique, nonzero
        torch.ones(2).to(DEVICE)
        torch.ones(2).pin_memory().to(DEVICE, non_blocking=True)
        assert len(gpu.synchronisations) == 8
        for wrong in (
            lambda: a + torch.ones(6),
            lambda: a[torch.tensor([1, 2])],
            lambda: torch.ones(2, device="cuda:0"),
            a.numpy,
        ):
            with pytest.raises(WrongDevice):
                wrong()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The fused kernel's values without a GPU, and on which device each launch was made."""
    triton_module = pytest.importorskip("selection.kernels.logsumexp_triton")
    current, launched = [torch.device("cuda:0")], []

    @contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    def launch(strip: Tensor, b: Tensor, scale: float, offset: float, tile: Any) -> tuple[Tensor, Tensor]:
        launched.append(current[-1])
        assert isinstance(strip, Simulated)
        assert isinstance(b, Simulated)
        values = (scale * strip.values.float() @ b.values.float().T + offset).exp()
        by_row = torch.stack([part.sum(1) for part in values.split(tile.columns, 1)])
        by_column = torch.stack([part.sum(0) for part in values.split(tile.rows, 0)])
        return Simulated(by_row), Simulated(by_column)

    monkeypatch.setattr(logsumexp, "triton_available", lambda: True)
    monkeypatch.setattr(triton_module, "_launch", launch)
    monkeypatch.setattr(torch.cuda, "device", on)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return launched


def features(num: int, width: int = 64) -> tuple[Tensor, Tensor]:
    image, text = image_text_pairs(num, width)
    return image.half(), text.half()


def test_a_batch_starts_few_kernels_and_waits_once(kernel: list[torch.device]) -> None:
    image, text = features(2000)
    counts = []
    for num_batches in (1, 2):
        with SimulatedGPU() as gpu:
            found = s_cliploss(simulated(image), simulated(text), 0.01, 1000, num_batches)
        counts.append((len(gpu.launches), len(gpu.synchronisations)))
        assert isinstance(found, Simulated)
        torch.testing.assert_close(found.values, s_cliploss(image, text, 0.01, 1000, num_batches), atol=2e-6, rtol=0)
    from selection.kernels.logsumexp_triton import STRIP_ROWS

    assert STRIP_ROWS >= 32_768  # so that a batch of the usual size is one strip, as here
    launches, waits = (more - fewer for fewer, more in zip(*counts))
    assert launches <= 2 * 12 + 1  # two batches; the partition's own sum
    assert waits <= 2
    once = (counts[0][0] - launches, counts[0][1] - waits)  # checks, cosines and the mean, of the whole block
    assert once[0] <= 20
    assert once[1] <= 3
    assert set(kernel) == {DEVICE}


def test_the_kernel_gets_halves_whenever_they_lose_nothing(kernel: list[torch.device]) -> None:
    image, text = features(300)
    with SimulatedGPU():
        for dtype, halves in ((torch.float16, True), (torch.float32, True), (torch.bfloat16, True)):
            kernel.clear()
            Pairs.prepare(simulated(image.to(dtype)), simulated(text.to(dtype))).normaliser(slice(None), 0.01)
            assert bool(kernel) == halves
        kernel.clear()
        exact = torch.nn.functional.normalize(image.float(), dim=1)
        Pairs.prepare(simulated(exact), simulated(text)).normaliser(slice(None), 0.01)
        assert not kernel


def test_low_sums_are_computed_again(kernel: list[torch.device]) -> None:
    image, text = features(500)
    with SimulatedGPU():
        found = s_cliploss(simulated(image), simulated(text), 0.0005)
    torch.testing.assert_close(found.values, s_cliploss(image, text, 0.0005), atol=2e-6, rtol=0)  # type: ignore[attr-defined]


ATOMIC = ("index_add", "scatter_add", "index_reduce", "scatter_reduce")

SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "clip_score": lambda image, text, target: clip_score(image, text),
    "s_cliploss bank": lambda image, text, target: s_cliploss(image, text, bank_size=500),
    "normsim 2": lambda image, text, target: normsim(image, target, 2),
    "normsim 3": lambda image, text, target: normsim(image, target, 3),
    "normsim inf": lambda image, text, target: normsim(image, target, float("inf")),
    "vas": lambda image, text, target: vas(image, second_moment(target)),
    "vas cross": lambda image, text, target: vas(image, second_moment(target, target), text),
    "vas_d": lambda image, text, target: vas_d(image, 300, 5),
    "vas_d share": lambda image, text, target: vas_d(image, 300, 5, moment_share=0.3),
    "kmeans": lambda image, text, target: kmeans(image, 10, iterations=3),
    "semdedup by label": lambda image, text, target: semdedup(image, image[:, 0].gt(0).long(), 0.1),
    "semdedup": lambda image, text, target: semdedup(image, target[:20], 0.1),
    "nearest": lambda image, text, target: nearest_by_product(image, target[:50]),
}


@pytest.mark.parametrize("name", SCORES)
def test_scores_stay_where_their_features_are(name: str, kernel: list[torch.device]) -> None:
    image, text = features(1200)
    target, _ = features(400)
    with SimulatedGPU() as gpu:
        found = SCORES[name](simulated(image), simulated(text), simulated(target))
    assert isinstance(found, Simulated)
    assert not [launch for launch in gpu.launches if launch.startswith(ATOMIC)]  # its sums would vary
    expected = SCORES[name](image, text, target)
    if expected.is_floating_point():
        torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)
    else:
        assert (found.values == expected).float().mean() >= 0.99  # equal but for near ties


def test_halves_are_multiplied_as_they_are() -> None:
    image, _ = features(1200)
    target, _ = features(400)
    with SimulatedGPU() as gpu:
        normsim(simulated(image), simulated(target), float("inf"))
        converted = [launch for launch in gpu.launches if launch.startswith("_to_copy")]
        assert len(converted) == 2  # for the norms of both, none for the products


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_centroids_are_not_rounded_to_the_halves_they_are_multiplied_with(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = features(1200)[0].to(dtype)
    centroids = torch.nn.functional.normalize(torch.randn(30, 64, generator=torch.Generator().manual_seed(1)), dim=1)
    exact = centroids.double().square().sum(1) - 2 * image.double() @ centroids.double().T
    conversions = []
    for count in (1, 5):
        monkeypatch.setattr(kmeans_module, "whole_row_tiles", lambda rows, *_: tiles(rows, -(-rows // count)))  # noqa: B023
        with SimulatedGPU() as gpu:
            labels, distances = kmeans_module._assign(simulated(image), simulated(centroids))
        assert (distances.values - exact.min(1).values).abs().max() < 1e-6  # one half would be 1e-4 off
        assert torch.equal(labels.values, exact.argmin(1))
        conversions.append(sum(launch.startswith("_to_copy") for launch in gpu.launches))
    assert conversions[0] == conversions[1]  # of the centroids; none for a tile of features
