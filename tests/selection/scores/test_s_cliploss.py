from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from helpers.bundle import Bundle
from helpers.features import image_text_pairs
from selection.kernels.logsumexp import contrastive_normaliser
from selection.scores.clip_score import clip_score
from selection.scores.s_cliploss import random_partitions, s_cliploss, s_cliploss_bank, s_cliploss_over

ARCHS = ["l14", "b32"]


@pytest.fixture(params=ARCHS)
def arch(request: pytest.FixtureRequest) -> str:
    return request.param


def both(bundle: Bundle, arch: str) -> tuple[Tensor, Tensor]:
    return bundle.features(f"{arch}_img"), bundle.features(f"{arch}_txt")


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), atol=1e-6, rtol=0)


def test_golden_clip_score(bundle: Bundle, arch: str) -> None:
    found = clip_score(*both(bundle, arch))
    close(found, bundle.expected(f"clip_score_{arch}"))
    for mode in ("whole", "per_file", "batched"):
        close(found, bundle.expected(f"scliploss/{mode}/{arch}_tau{bundle.temperature[arch]}_clip_score"))


def test_golden_whole(bundle: Bundle, arch: str) -> None:
    temperature = bundle.temperature[arch]
    found = s_cliploss(*both(bundle, arch), temperature, batch_size=None)
    close(found, bundle.expected(f"scliploss/whole/{arch}_tau{temperature}_negcliploss_f64"))
    close(found, bundle.expected(f"scliploss/whole/{arch}_tau{temperature}_negcliploss"))


def test_golden_per_file(bundle: Bundle, arch: str) -> None:
    temperature, (image, text) = bundle.temperature[arch], both(bundle, arch)
    name = f"scliploss/per_file/{arch}_tau{temperature}"
    lse = [contrastive_normaliser(image[rows], text[rows], temperature) for rows in bundle.file_rows]
    close(torch.cat([part[0] for part in lse]) * temperature / 2, bundle.expected(f"{name}_norm_i2t"))
    close(torch.cat([part[1] for part in lse]) * temperature / 2, bundle.expected(f"{name}_norm_t2i"))
    scores = [s_cliploss(image[rows], text[rows], temperature) for rows in bundle.file_rows]  # files < batch_size
    close(torch.cat(scores), bundle.expected(f"{name}_negcliploss_f64"))
    close(torch.cat(scores), bundle.expected(f"{name}_negcliploss"))


def test_golden_batched(bundle: Bundle, arch: str) -> None:
    """The authors' chunks: consecutive, the last one shorter, three repetitions with the stored permutations."""
    temperature, (image, text) = bundle.temperature[arch], both(bundle, arch)
    name = f"scliploss/batched/{arch}_tau{temperature}"
    per_repetition = bundle.expected(f"{name}_negcliploss_per_k_f64")
    for number, rows in enumerate(bundle.file_rows):
        orders = torch.from_numpy(bundle.array(f"golden/scliploss/batched/perms_file{number}.npy")).long()
        partitions = [list(order.split(256)) for order in orders]
        found = s_cliploss_over(image[rows], text[rows], temperature, partitions)
        close(found, bundle.expected(f"{name}_negcliploss_f64")[rows])
        close(found, bundle.expected(f"{name}_negcliploss")[rows])
        for repetition, partition in enumerate(partitions):
            close(s_cliploss_over(image[rows], text[rows], temperature, [partition]), per_repetition[repetition][rows])
        for side, part in enumerate(("norm_i2t", "norm_t2i")):
            total = torch.zeros(rows.stop - rows.start)
            for batch in (batch for partition in partitions for batch in partition):
                total[batch] += contrastive_normaliser(image[rows][batch], text[rows][batch], temperature)[side]
            close(total * temperature / 2 / len(partitions), bundle.expected(f"{name}_{part}")[rows])


def test_golden_overflow(bundle: Bundle) -> None:
    image, text = (torch.from_numpy(bundle.array(f"golden/scliploss/overflow/{name}.npy")) for name in ("img", "txt"))
    assert bundle.array("golden/scliploss/overflow/reference_is_minus_inf.npy").any()
    close(s_cliploss(image, text, 0.01, None), bundle.expected("scliploss/overflow/negcliploss_f64"))


@settings(deadline=None, max_examples=30)
@given(num=st.integers(2, 300), seed=st.integers(0, 99), temperature=st.sampled_from([0.01, 0.07, 1.0]))
def test_is_minus_temperature_times_the_clip_loss(num: int, seed: int, temperature: float) -> None:
    image, text = image_text_pairs(num, seed=seed)
    logits, labels = image.double() @ text.double().T / temperature, torch.arange(num)
    cross_entropy = torch.nn.functional.cross_entropy
    loss = (cross_entropy(logits, labels, reduction="none") + cross_entropy(logits.T, labels, reduction="none")) / 2
    found = s_cliploss(image, text, temperature, None)
    close(found, -temperature * loss)
    assert (found <= 1e-6).all()


@pytest.mark.parametrize("temperature", [0.01, 0.07])
def test_constant_similarity_gives_minus_temperature_log_batch(temperature: float) -> None:
    same = torch.tensor([0.6, 0.8]).expand(1000, 2)
    close(s_cliploss(same, same, temperature, None), torch.full((1000,), -temperature * math.log(1000)))
    close(s_cliploss(same, same, temperature, 300, 2), torch.full((1000,), -temperature * math.log(300)))


@given(seed=st.integers(0, 99))
@settings(deadline=None, max_examples=10)
def test_order_inside_a_batch_does_not_matter(seed: int) -> None:
    image, text = image_text_pairs(400, seed=seed)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
    close(s_cliploss(image[order], text[order], 0.01, None), s_cliploss(image, text, 0.01, None)[order])


def test_a_second_row_with_the_same_caption_lowers_the_first() -> None:
    image, text = image_text_pairs(50)
    twin = torch.cat([image, image[1:2]]), torch.cat([text, text[:1]])
    assert s_cliploss(*twin, 0.07, None)[0] < s_cliploss(image, text, 0.07, None)[0] - 1e-4


def test_the_average_is_over_single_partitions() -> None:
    image, text = image_text_pairs(500)
    partitions = list(random_partitions(500, 64, 3, seed=5))
    single = [s_cliploss_over(image, text, 0.01, [partition]) for partition in partitions]
    assert not torch.allclose(single[0], single[1], atol=1e-4)
    close(s_cliploss(image, text, 0.01, 64, 3, seed=5), torch.stack(single).mean(0))


def test_one_batch_needs_no_repetition() -> None:
    image, text = image_text_pairs(100)
    assert torch.equal(s_cliploss(image, text, 0.01, 100, 4), s_cliploss(image, text, 0.01, None))


@given(num=st.integers(1, 500), batch_size=st.integers(1, 100), seed=st.integers(0, 2**64 - 1))
def test_partitions_cover_all_samples_in_equal_batches(num: int, batch_size: int, seed: int) -> None:
    partitions = list(random_partitions(num, batch_size, 2, seed))
    for batches in partitions:
        assert torch.cat(batches)[:num].sort().values.tolist() == list(range(num))
        assert [len(batch) for batch in batches] == [min(batch_size, num)] * math.ceil(num / batch_size)
        assert all(len(batch.unique()) == len(batch) for batch in batches)
    if num > 20:
        assert torch.cat(partitions[0]).tolist() != torch.cat(partitions[1]).tolist()


def test_short_last_batch_has_the_authors_lengths() -> None:
    (batches,) = random_partitions(1000, 256, 1, seed=0, short_last_batch=True)
    assert [len(batch) for batch in batches] == [256, 256, 256, 232]
    (equal,) = random_partitions(1000, 256, 1, seed=0)
    assert torch.equal(torch.cat(batches), torch.cat(equal)[:1000])


def test_what_fills_up_the_last_batch_is_scored_in_its_own() -> None:
    image, text = image_text_pairs(30)
    first, last = torch.arange(20), torch.cat([torch.arange(20, 30), torch.arange(10)])
    found = s_cliploss_over(image, text, 0.07, [[first, last]])
    close(found[:20], s_cliploss(image[:20], text[:20], 0.07, None))
    close(found[20:], s_cliploss(image[last], text[last], 0.07, None)[:10])


def test_a_bank_of_all_samples_is_one_batch_of_all() -> None:
    image, text = image_text_pairs(300)
    for temperature in (0.01, 0.07):
        whole = s_cliploss(image, text, temperature, None)
        close(s_cliploss(image, text, temperature, None, bank_size=300), whole)
        close(s_cliploss(image, text, temperature, 1000, bank_size=1000), whole)


@settings(deadline=None, max_examples=20)
@given(size=st.integers(10, 60), batch_size=st.integers(2, 60), seed=st.integers(0, 20))
def test_a_bank_gives_the_mean_of_its_others_times_the_batch(size: int, batch_size: int, seed: int) -> None:
    image, text = image_text_pairs(60, seed=seed)
    bank = torch.randperm(60, generator=torch.Generator().manual_seed(seed))[:size]
    terms = (image.double() @ text.double().T / 0.07).exp()
    expected = image.double().mul(text).sum(1)
    for side in (terms, terms.T):
        for i in range(60):
            others = side[i, bank[bank != i]]
            expected[i] -= 0.07 / 2 * (terms[i, i] + (batch_size - 1) * others.mean()).log()
    close(s_cliploss_bank(image, text, bank, 0.07, batch_size), expected)


def test_a_bank_of_equal_pairs_does_not_overflow() -> None:
    same = torch.tensor([0.6, 0.8]).expand(100, 2)
    close(s_cliploss(same, same, 0.01, 50, bank_size=10), torch.full((100,), -0.01 * math.log(50)))


def test_a_partition_is_fixed_by_seed_and_repetition() -> None:
    """Values of numpy's PCG64(SeedSequence([7, r])), sorted; they must stay the same for ever."""
    orders = [torch.cat(batches).tolist() for batches in random_partitions(8, 4, 2, seed=7)]
    assert orders == [[6, 3, 4, 0, 2, 7, 5, 1], [1, 3, 2, 7, 4, 5, 0, 6]]


def test_the_short_last_batch_is_favoured_and_equal_batches_are_not() -> None:
    image, text = torch.ones(1100, 4) / 2, torch.ones(1100, 4) / 2
    assert s_cliploss(image, text, 0.07, 1000, 1, short_last_batch=True).unique().numel() == 2
    assert s_cliploss(image, text, 0.07, 1000, 1).unique().numel() == 1


def test_bad_numbers_are_refused() -> None:
    image, text = image_text_pairs(10)
    with pytest.raises(ValueError, match="batch_size must be positive"):
        s_cliploss(image, text, batch_size=0)
    with pytest.raises(ValueError, match="num_batches must be positive"):
        s_cliploss(image, text, num_batches=0)
    with pytest.raises(ValueError, match="bank_size must be at least 2"):
        s_cliploss(image, text, bank_size=1)
    with pytest.raises(ValueError, match="temperature must be positive"):
        s_cliploss(image, text, temperature=0)
