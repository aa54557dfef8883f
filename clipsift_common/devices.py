"""What ``trainer.devices`` asks for, against what a machine has."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clipsift_common.errors import ClipsiftError

Devices = int | str | list[int]


def parse_devices(devices: Devices) -> list[int] | int | None:
    """GPUs by number, how many there shall be, or None for all.

    ``auto`` and -1 mean all; ``3`` means three; ``[2, 3]`` and ``"2,3"`` are those two, ``"2,"`` is that one.

    Raises:
        ClipsiftError: for anything else.
    """
    if isinstance(devices, str):
        text = devices.replace(" ", "")
        if text in ("auto", "-1"):
            return None
        if re.fullmatch(r"\d+", text):
            devices = int(text)
        elif re.fullmatch(r"\d+(,\d+)*,?", text):
            devices = [int(part) for part in text.strip(",").split(",")]
    if devices == -1:
        return None
    if isinstance(devices, int) and devices > 0:
        return devices
    if isinstance(devices, list) and devices and len(set(devices)) == len(devices) and min(devices) >= 0:
        return devices
    raise ClipsiftError(f"trainer.devices: {devices!r} is no number, list of GPUs, -1 or auto")


def uses_gpus(accelerator: str, num_gpus: int) -> bool:
    """Whether ``accelerator`` means the GPUs here. Raises :class:`ClipsiftError` when it asks for some and none is."""
    if accelerator in ("gpu", "cuda") and not num_gpus:
        raise ClipsiftError(
            f"trainer.accelerator: {accelerator}, but torch sees no GPU here; "
            "look at CUDA_VISIBLE_DEVICES and nvidia-smi, or set it to cpu"
        )
    return accelerator in ("auto", "gpu", "cuda") and num_gpus > 0


def choose_gpus(wanted: list[int] | int | None, num_gpus: int) -> list[int]:
    """The numbers of the GPUs that are meant. Raises :class:`ClipsiftError` when the machine does not have them."""
    chosen: Sequence[int] = range(num_gpus if wanted is None else wanted) if not isinstance(wanted, list) else wanted
    if max(chosen) >= num_gpus:
        there = "1 GPU" if num_gpus == 1 else f"{num_gpus} GPUs, numbered from 0"
        raise ClipsiftError(f"trainer.devices: {wanted} asked for, torch sees {there} here")
    return list(chosen)


def count_processes(devices: Devices) -> int:
    """How many processes a machine without GPUs is asked for; one for ``auto``.

    Raises:
        ClipsiftError: when it is asked for GPUs.
    """
    wanted = parse_devices(devices)
    if isinstance(wanted, list) or (wanted is None and devices != "auto"):
        raise ClipsiftError(f"trainer.devices: {devices!r} means GPUs, and none is used here; give a number")
    return wanted or 1
