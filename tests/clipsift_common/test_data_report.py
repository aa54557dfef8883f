"""Whatever is wrong with a pool, what is said about it stays small, and every sample is counted."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from clipsift_common.data_report import MAX_CAUSES, DataReport
from helpers.pools import sample
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool

NUM = 100_000
LARGEST = 100_000  # bytes


def test_a_hundred_thousand_losses_make_a_small_report(caplog: pytest.LogCaptureFixture) -> None:
    report = DataReport()
    for number in range(NUM):
        report.samples += 1
        report.lose(("broken_image", "missing_caption")[number % 2], "shard", f"{number:06d}", "x" * 50)
    assert report.lost == {"broken_image": NUM // 2, "missing_caption": NUM // 2}
    assert len(json.dumps(report.as_dict())) < LARGEST
    assert Counter(line.split(":")[0] for line in caplog.messages) == {"broken_image": 5, "missing_caption": 5}
    assert [line for line in caplog.messages if "further ones" in line] == [caplog.messages[8], caplog.messages[9]]


@pytest.mark.parametrize("kind", ["lost", "ignored", "noted"])
def test_so_do_as_many_causes(caplog: pytest.LogCaptureFixture, kind: str) -> None:
    report = DataReport()
    say = {"lost": report.lose, "ignored": report.ignore, "noted": report.note}[kind]
    for number in range(NUM):
        say(f"{number} member", "shard", "key")
    assert sum(getattr(report, kind).values()) == NUM
    assert len(getattr(report, kind)) == MAX_CAUSES + 1
    assert len(json.dumps(report.as_dict())) < LARGEST
    assert len(caplog.messages) < 100


def test_so_do_a_thousand_parts(caplog: pytest.LogCaptureFixture) -> None:
    total = DataReport()
    for part in range(1000):
        report = DataReport(logs=False)
        for number in range(100):
            report.lose(f"cause {part % 70}", f"{part:08d}", f"{number}")
        total.merge(report.as_dict(), logs=True)
    assert total.num_lost == NUM
    assert total.lost["cause 0"] == 15 * 100  # parts 0, 70, ... 980
    assert len(json.dumps(total.as_dict())) < LARGEST
    assert len(caplog.messages) == 5 * (MAX_CAUSES + 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pool_of_which_nothing_can_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int) -> None:
    """40 shards of 50 samples without a caption, each with a member of an extension of its own; one is whole."""
    for shard in range(40):
        members = []
        for number in range(50):
            key = f"{shard * 50 + number:06d}"
            members += [(f"{key}.jpg", b"picture"), (f"{key}.ext{key}", b"?")]
        write_tar(tmp_path / "pool" / f"{shard:08d}.tar", members)
    write_tar(tmp_path / "pool" / "whole.tar", sample("whole", 1))
    with caplog.at_level(logging.WARNING, "clipsift"):
        index = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache", workers)
    assert index.report.lost == {"missing_caption": 2000}
    assert index.report.samples == 2001
    assert sum(index.report.ignored.values()) == 2000
    assert len(caplog.messages) < 300
    assert sum(message.startswith("missing_caption") for message in caplog.messages) == 5
    assert len(json.dumps(index.report.as_dict())) < LARGEST
