"""Batches on a GPU one ahead: the next one is copied there while this one is computed with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

Send = Callable[[Any, torch.device], Any]


def sent_ahead(batches: Iterable[Any], device: torch.device, send: Send = move_data_to_device) -> Iterator[Any]:
    """``batches`` with their tensors on ``device``, in order.

    On a GPU batch n + 1 is sent, on a stream of its own, before batch n is given out, so that the copy runs beside what
    the caller then computes; it costs the memory of one more batch. The tensors must come pinned, else the host waits
    for each copy. On any other device batches are given out as they come, where they are.

    Args:
        send: makes a batch whose tensors are on the device; called in the stream of its own.
    """
    if device.type != "cuda":
        yield from batches
        return
    side, before = torch.cuda.Stream(device), None
    for batch in batches:
        # Pinned memory that Python lets go of meanwhile is safe: its allocator has noted that this stream reads it.
        with torch.cuda.stream(side):
            coming, sent = send(batch, device), torch.cuda.Event()
            sent.record(side)
        if before is not None:
            yield _received(*before, device)
        before = coming, sent
    if before is not None:
        yield _received(*before, device)


def _received(batch: Any, sent: torch.cuda.Event, device: torch.device) -> Any:
    """``batch`` for the caller's stream; the host waits for nothing."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(sent)  # what the caller starts from now on begins after the copy
    # The batch's memory belongs to the side stream. A later copy could get it as soon as Python lets go of the batch,
    # while kernels that read it still stand in the caller's queue; so the allocator is told who else uses it.
    apply_to_collection(batch, Tensor, lambda tensor: tensor.record_stream(stream))
    return batch
