"""VAS-D, also NormSim_2-D: the samples still in are the target, and the least aligned with them leave step by step.

arXiv 2402.02055 and 2405.19547. Each step ranks the remaining samples P by f^T S f, S the second moment of P (in the
first step: of the whole pool, before any quality filter), and drops ceil((|P_0| - size) / steps) of them; the last
step drops what is left to drop.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from clipsift_common.distributed import alone
from clipsift_common.progress import track
from selection.kernels.arrays import on_arrays
from selection.kernels.checks import check_features, check_same_width
from selection.kernels.tiles import linear_tiles
from selection.kernels.transfer import GPU_SHARE
from selection.methods.vas_d_steps import Block, Steps
from selection.options import PositiveInt, Share
from selection.registry import LeftFile, LeftRows, register_method
from selection.shuffle.spill import unnamed


@on_arrays
def vas_d(
    features: Tensor,
    size: int,
    steps: int,
    start: Tensor | None = None,
    moment: Tensor | None = None,
    moment_share: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """(size,) int64 indices into ``features``, ascending, of the samples that stay.

    Args:
        features: (n, d) unit image features of the pool; may be memory mapped.
        size: how many to keep.
        steps: at most this many rounds; the papers use 500 for the medium scale and 168 for the small.
        start: indices to begin with, such as the best by a quality score; default all.
        moment: (d, d) second moment that the first step ranks by; default that of all of ``features``.
        moment_share: in (0, 1]; below 1 every step makes its moment anew from so large a random share of the samples
            that are left. The code of arXiv 2405.19547 takes 0.1, that of arXiv 2402.02055 all.
        seed: of those shares.

    Among equal values the higher index leaves first. A step costs about O(sqrt(|P| dropped) d^2): a sample's value is
    a sum of squares over P, so only what the dropped samples put in is taken out, at every step only from those that
    may leave next. With ``moment_share`` s below 1 it costs O((1 + s) |P| d^2). Memory is O(n) beside the features.

    Raises:
        ValueError: size, steps or share out of range, a row that is not finite, a start out of range or with repeats.
    """
    check_features(features)
    if moment is not None:
        check_same_width(features, moment, "moment")
    indices = _start_indices(start, len(features), features.device)
    _check(size, len(indices), steps, moment_share)
    block = Block(0, features, np.empty(len(features)))
    with alone():
        left = Steps([block], features.device)
        if moment is None:
            moment = left.gram((lambda block: block.left) if moment_share == 1 else left.share(moment_share, [seed, 0]))
        left.restrict({0: indices.cpu().numpy()})
        shrink(left, size, steps, moment, moment_share, seed)
    return torch.from_numpy(block.left).to(features.device)


def shrink(left: Steps, size: int, steps: int, moment: Tensor, moment_share: float, seed: int) -> None:
    """Let all but ``size`` rows leave, the first by ``moment`` (d, d); a collective call."""
    chunk = -(-(left.num_left - size) // steps)
    sizes = [max(size, rest) for rest in range(left.num_left - chunk, size - chunk, -chunk)] if chunk else []
    if not sizes:
        return
    left.value(moment)
    left.drop_lowest(left.num_left - sizes[0])
    if moment_share == 1 and sizes[1:]:
        left.value(left.gram(lambda block: block.left))
        left.downdate(sizes[1:])
        return
    for step, staying in enumerate(track(sizes[1:], "vas_d", unit="steps", brief=True), start=1):
        left.value(left.gram(left.share(moment_share, [seed, step])))
        left.drop_lowest(left.num_left - staying)


@register_method("vas_d", needs=("image",), by_file=True, version=2)
def vas_d_method(
    left: LeftRows, size: int, steps: PositiveInt = 500, moment_share: Share = 1.0
) -> dict[int, np.ndarray]:
    files = {number: left.files.open(number, ("image",)) for number in left.mine}
    blocks = [_block(left, number, file) for number, file in files.items()]
    rows = Steps(_on_gpu(blocks, left.device), left.device)
    _check(size, rows.num_left, steps, moment_share)
    shrink(rows, size, steps, left.moment(), moment_share, left.seed)
    return {block.number: files[block.number].rows[block.left] for block in rows.blocks}


def _check(size: int, count: int, steps: int, share: float) -> None:
    if not 1 <= size <= count:
        raise ValueError(f"size {size} is outside 1..{count}, the samples to begin with")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    if not 0 < share <= 1:
        raise ValueError(f"moment_share {share} is outside (0, 1]")


def _block(left: LeftRows, number: int, file: LeftFile) -> Block:
    """A file's rows that are left, in an unnamed file on the disk, as compressed as they are in the pool."""
    some = file.take("image", slice(0, 1))
    if not len(file.rows):
        return Block(number, torch.from_numpy(some), np.empty(0))
    make = partial(unnamed, left.folder)
    features = make(some.dtype, (len(file.rows), some.shape[1]))
    for part in linear_tiles(len(features), torch.device("cpu")):
        features[part] = file.take("image", part)
    return Block(number, torch.from_numpy(features), make(np.dtype(np.float64), (len(features),)), make)


def _on_gpu(blocks: list[Block], device: torch.device) -> list[Block]:
    """As many of the blocks as fit on a GPU there; the others are read from the disk, once for several steps."""
    if device.type != "cuda":
        return blocks
    room = GPU_SHARE * torch.cuda.mem_get_info(device)[0]
    for block in blocks:
        room -= block.features.nbytes
        if room > 0:
            block.features = block.features.to(device)
    return blocks


def _start_indices(start: Tensor | None, num_samples: int, device: torch.device) -> Tensor:
    if start is None:
        return torch.arange(num_samples, device=device)
    indices = torch.as_tensor(start, device=device).long().unique()
    if len(indices) != len(start):
        raise ValueError("start has repeated indices")
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < num_samples:
        raise ValueError(f"start has indices outside 0..{num_samples - 1}")
    return indices
