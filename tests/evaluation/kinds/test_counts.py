"""Counts and ranks against hand-made cases and slow formulas."""

from __future__ import annotations

import math

import pytest
import torch

from evaluation.kinds.counts import ClassCounts, GroupCounts, label_ranks
from evaluation.kinds.groups import worst
from evaluation.kinds.retrieval import best_ranks


def test_label_ranks_break_ties_by_class_number() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 2.0]] * 5)
    assert label_ranks(logits, torch.tensor([0, 1, 2, 3, 4])).tolist() == [3, 0, 1, 2, 4]


def test_class_counts_by_hand() -> None:
    counts = ClassCounts(4)
    predictions, labels = torch.tensor([0, 0, 1, 2, 3, 0]), torch.tensor([0, 0, 1, 1, 1, 2])
    one_hot = torch.nn.functional.one_hot(predictions, 4).float()
    counts.update(one_hot[:4], labels[:4])
    counts.update(one_hot[4:], labels[4:])
    metrics = counts.compute()
    assert metrics["acc1"] == 3 / 6
    assert metrics["acc5"] == 1
    # Class 3 never occurs: it is not averaged in, though it is predicted once.
    assert metrics["mean_per_class_recall"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert metrics["macro_f1"] == pytest.approx((2 * 2 / (2 + 3) + 2 * 1 / (3 + 1) + 0) / 3)


def test_group_counts_by_hand() -> None:
    counts = GroupCounts(["race", "gender"])
    counts.update(torch.tensor([[0, 1], [2, 0], [0, 1]]), torch.tensor([True, False, False]))
    assert counts.compute() == {
        "race:0_gender:0": (0, 0),
        "race:0_gender:1": (1, 2),
        "race:1_gender:0": (0, 0),
        "race:1_gender:1": (0, 0),
        "race:2_gender:0": (0, 1),
        "race:2_gender:1": (0, 0),
    }


def test_worst_leaves_empty_groups_out() -> None:
    assert worst([0.5, math.nan, 0.25]) == 0.25
    assert math.isnan(worst([math.nan]))


def test_best_ranks_against_a_sort() -> None:
    generator = torch.Generator().manual_seed(3)
    queries = torch.randint(-2, 3, (40, 3), generator=generator).float()  # many ties
    candidates = torch.randint(-2, 3, (25, 3), generator=generator).float()
    owner = torch.arange(25) % 7
    own = torch.randint(0, 7, (40,), generator=generator)
    expected = []
    for query, mine in zip(queries, own):
        order = sorted(range(25), key=lambda c: (-float(query @ candidates[c]), c))
        expected.append(next(place for place, c in enumerate(order) if owner[c] == mine))
    assert best_ranks(queries, candidates, owner, own).tolist() == expected
