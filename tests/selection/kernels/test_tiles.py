from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, strategies as st

from selection.kernels.tiles import tile_map, tiles

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("threads")


@given(total=st.integers(0, 5000), size=st.integers(1, 700))
def test_tiles_cover_the_range_in_equal_parts(total: int, size: int) -> None:
    parts = tiles(total, size)
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(total))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == max(1, -(-total // size))


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_tile_map_keeps_order_and_computes_each_part_on_one_thread(num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    seen: set[int] = set()

    def work(part: slice) -> tuple[int, int, bool]:
        seen.add(threading.get_ident())
        return part.start, torch.get_num_threads(), torch.is_grad_enabled()

    results = list(tile_map(work, tiles(50, 1), CPU))
    assert results == [(i, 1, False) for i in range(50)]
    assert len(seen) <= num_threads
    assert torch.get_num_threads() == num_threads


def test_an_error_in_a_part_comes_out_and_leaves_the_settings() -> None:
    torch.set_num_threads(2)

    def fail(part: slice) -> None:
        raise KeyError(part.start)

    with pytest.raises(KeyError):
        list(tile_map(fail, tiles(8, 1), CPU))
    assert torch.get_num_threads() == 2


def test_products_are_full_float32_whatever_training_set() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert list(tile_map(lambda part: torch.get_float32_matmul_precision(), tiles(2, 1), CPU)) == ["highest"] * 2
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
