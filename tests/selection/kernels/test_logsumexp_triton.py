"""The fused kernel in Triton's interpreter, which takes effect before Triton is imported: so in another process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from helpers.program import REPOSITORY

PROGRAM = """
import torch
from selection.kernels import logsumexp
from selection.kernels import logsumexp_triton
from selection.kernels.logsumexp_triton import exp_sums

logsumexp_triton.STRIP_ROWS = 256  # several launches
generator = torch.Generator().manual_seed(0)
for dtype in (torch.float16, torch.bfloat16):
    for n, m, d in ((300, 500, 80), (129, 1, 64), (640, 257, 200), (1, 130, 32)):
        a, b = (torch.nn.functional.normalize(torch.randn(k, d, generator=generator), dim=1).to(dtype) for k in (n, m))
        rows, columns = exp_sums(a, b, 100.0, -40.0)
        expected = (100 * a.double() @ b.double().T - 40).exp()
        torch.testing.assert_close(rows.double(), expected.sum(1), rtol=5e-5, atol=0)
        torch.testing.assert_close(columns.double(), expected.sum(0), rtol=5e-5, atol=0)
        wide = torch.cat([a, a], dim=1)[:, :d]  # rows that are apart in memory
        for tile in (None, logsumexp_triton.PERSISTENT[0]):
            torch.testing.assert_close(exp_sums(wide, b, 100.0, -40.0, tile)[0], rows, rtol=1e-5, atol=0)
        for tile in logsumexp_triton.TILES + logsumexp_triton.PERSISTENT:
            others = exp_sums(a, b, 100.0, -40.0, tile)
            torch.testing.assert_close(others[0], rows, rtol=1e-5, atol=0)
            torch.testing.assert_close(others[1], columns, rtol=1e-5, atol=0)

same = torch.tensor([0.6, 0.8]).half().expand(200, 2)
eager = logsumexp.contrastive_normaliser(same, same, 0.01)
logsumexp._exp_sums = exp_sums  # as on a GPU: the offset keeps cosines of 1 at temperature 0.01 from overflowing
for fused, plain in zip(logsumexp.contrastive_normaliser(same, same, 0.01), eager):
    torch.testing.assert_close(fused, plain)
try:
    exp_sums(a.float(), b.float(), 1.0, 0.0)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton")
def test_the_fused_kernel_in_the_interpreter() -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "expected two tensors of fp16 or of bf16" in done.stdout
