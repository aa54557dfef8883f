from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from helpers.bundle import Bundle
from helpers.features import image_text_pairs
from selection.kernels.logsumexp import contrastive_normaliser


def dense(image: Tensor, text: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits = image.double() @ text.double().T / temperature
    return logits.logsumexp(1), logits.logsumexp(0)


@pytest.mark.parametrize("arch", ["l14", "b32"])
def test_golden_parts_over_the_whole_pool(bundle: Bundle, arch: str) -> None:
    temperature = bundle.temperature[arch]
    lse = contrastive_normaliser(bundle.features(f"{arch}_img"), bundle.features(f"{arch}_txt"), temperature)
    for part, name in zip(lse, ("norm_i2t", "norm_t2i")):
        expected = bundle.expected(f"scliploss/whole/{arch}_tau{temperature}_{name}")
        torch.testing.assert_close(part * temperature / 2, expected, atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=40)
@given(
    num=st.integers(1, 1500),
    width=st.integers(1, 40),
    temperature=st.sampled_from([1.0, 0.07, 0.01, 0.002, 1e-4]),
    scale=st.sampled_from([1.0, 30.0]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_equals_the_dense_form_in_float64(
    num: int, width: int, temperature: float, scale: float, dtype: torch.dtype
) -> None:
    image, text = (scale * features.to(dtype) for features in image_text_pairs(num, width))
    found = contrastive_normaliser(image, text, temperature)
    for ours, exact in zip(found, dense(image, text, temperature)):
        assert ours.dtype == torch.float32
        logit = scale**2 / temperature  # a float32 logit of this size is off by about this times 1e-7
        torch.testing.assert_close(ours.double(), exact, atol=1e-6 * max(logit, 10), rtol=0)


def test_rows_far_below_the_largest_logit_are_not_lost() -> None:
    """One pair at cosine 1, one row and one column whose cosines are all -1: 200 logits apart at temperature 0.01."""
    direction = torch.tensor([[1.0, 0.0]])
    image = torch.cat([direction, -direction, direction])
    text = torch.cat([direction, direction, direction])
    image_lse, _ = contrastive_normaliser(image, text, 0.01)
    torch.testing.assert_close(image_lse, torch.tensor([100.0, -100.0, 100.0]) + torch.tensor(3.0).log())
    _, text_lse = contrastive_normaliser(text, image, 0.01)
    torch.testing.assert_close(text_lse, image_lse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("num", "width"), [(5, 8), (11, 48), (100, 64), (1025, 48), (2600, 33)])
def test_same_bits_for_any_number_of_threads(num: int, width: int, dtype: torch.dtype, threads: None) -> None:
    """Sizes at which a threaded matrix product differs in its last bits; the low temperature takes the second pass."""
    image, text = (features.to(dtype) for features in image_text_pairs(num, width))
    for temperature in (0.01, 0.0005):
        torch.set_num_threads(1)
        alone = contrastive_normaliser(image, text, temperature)
        for num_threads in (2, 3, 5):
            torch.set_num_threads(num_threads)
            shared = contrastive_normaliser(image, text, temperature)
            assert torch.equal(alone[0], shared[0])
            assert torch.equal(alone[1], shared[1])


def test_no_samples() -> None:
    image_lse, text_lse = contrastive_normaliser(torch.zeros(0, 4), torch.zeros(0, 4), 0.01)
    assert len(image_lse) == len(text_lse) == 0


def test_bad_input_is_named() -> None:
    image, text = image_text_pairs(20, 4)
    with pytest.raises(ValueError, match=r"image \(20, 4\) and text \(19, 4\) differ"):
        contrastive_normaliser(image, text[1:], 0.01)
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="temperature must be positive"):
            contrastive_normaliser(image, text, temperature)
    text[7, 2] = float("nan")
    text[9, 0] = float("inf")
    with pytest.raises(ValueError, match=r"text: row 7 has NaN or infinite values \(2 such rows\)"):
        contrastive_normaliser(image, text, 0.01)
    with pytest.raises(ValueError, match="image: expected a 2-D floating-point tensor"):
        contrastive_normaliser(torch.zeros(3, 4, dtype=torch.int64), torch.zeros(3, 4, dtype=torch.int64), 0.01)
