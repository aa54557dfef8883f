"""Checkpoints that are whole or absent, and reading them back without trusting them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path
from clipsift_common.pretrained.torch_files import check_archive

CHECKPOINT_NAME = "last.ckpt"
_OURS = "clipsift"  # our entry in Lightning's checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and takes its place when complete (Lightning's own goes through /tmp).

    A write that fails leaves the old file and is kept in ``error`` for all ranks to hear of; raised here, on rank 0
    alone, it would leave the others waiting.
    """

    error: str | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            with atomic_path(path) as temporary, open(temporary, "wb") as handle:
                torch.save(checkpoint, handle)
        except ClipsiftError as error:
            self.error = f"{error}; the previous checkpoint is kept"


def stamp_settings(checkpoint: dict[str, Any], settings: dict[str, Any]) -> None:
    """Put the run's settings (plain values) into a checkpoint."""
    checkpoint[_OURS] = {"settings": settings}


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to continue from a checkpoint that another experiment has written.

    Raises:
        ClipsiftError: naming the settings that differ, or a file that is damaged or not ours.
    """
    try:
        check_archive(path)
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)[_OURS]["settings"]
    except Exception as error:  # damaged zip archives and unpicklable content raise all sorts
        raise ClipsiftError(
            f"{path}: is no checkpoint of clipsift's ({type(error).__name__}); delete it to train from the start"
        ) from error
    found = {"trainer.precision": settings.get("trainer.precision")} | found  # an earlier release noted none
    changed = sorted(name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name))
    if changed:
        raise ClipsiftError(
            f"{path}: was written with other settings ({', '.join(changed)}); "
            "restore them, choose another out, or delete the file to train from the start"
        )
