from __future__ import annotations

from pathlib import Path

import pytest

from helpers.machines.ranks import run_ranks


@pytest.mark.parametrize("num_ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_every_rank_reaches_the_end_of_the_demo(tmp_path: Path, num_ranks: int) -> None:
    run_ranks(Path(__file__).with_name("demo_on_ranks.py"), [tmp_path / "demo", num_ranks], num_ranks, timeout=120)
    page = (tmp_path / "demo/index.html").read_text()
    for recipe in ("none", "clip_score", "s_cliploss", "s_cliploss_normsim"):
        assert recipe in page
    assert "data:image/jpeg" in page  # pictures of the pool, which only its index gives
