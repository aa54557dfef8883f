"""Checkpoints that are whole or absent, the ones before the last, and reading them back without trusting them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import atomic_path, writing
from clipsift_common.pretrained.torch_files import check_archive

CHECKPOINT_NAME = "last.ckpt"
KEEP = 2  # checkpoints, the last one included
_EARLIER = "earlier"  # folder of those before, by step
_OURS = "clipsift"  # our entry in Lightning's checkpoint

logger = logging.getLogger("clipsift")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the old checkpoint and takes its place when complete (Lightning's own goes through /tmp).

    A write that fails leaves the old file and is kept in ``error`` for all ranks to hear of; raised here, on rank 0
    alone, it would leave the others waiting.

    Args:
        keep: how many checkpoints there are to be at most, while one is written too; the ones before the last are
            ``earlier/step-NUMBER.ckpt`` beside it.
    """

    def __init__(self, keep: int = KEEP) -> None:
        super().__init__()
        self.keep, self.error = keep, None
        self._step = 0  # of the last checkpoint, once known

    error: str | None

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        checkpoint: dict[str, Any] = super().load_checkpoint(path, *args, **options)
        self._step = checkpoint["global_step"]
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        try:
            remove_earlier(Path(path).parent, self.keep - 2, checkpoint["global_step"])
            with atomic_path(path) as temporary:
                with open(temporary, "wb") as handle:
                    torch.save(checkpoint, handle)
                if self.keep > 1 and self._step < checkpoint["global_step"]:
                    self._set_aside(Path(path))
            self._step = checkpoint["global_step"]
        except ClipsiftError as error:
            self.error = f"{error}; the previous checkpoint is kept"

    def _set_aside(self, path: Path) -> None:
        """Give the last checkpoint its second name, under which it stays when the new one takes its place."""
        if self._step and path.is_file():
            earlier = path.parent / _EARLIER / f"step-{self._step:09d}.ckpt"
            with writing(earlier):
                earlier.parent.mkdir(exist_ok=True)
                earlier.unlink(missing_ok=True)
                try:
                    os.link(path, earlier)
                except OSError:  # not on every file system
                    os.replace(path, earlier)


def list_earlier(folder: Path) -> list[Path]:
    """The checkpoints before the last, newest first."""
    return sorted((folder / _EARLIER).glob("step-*.ckpt"), reverse=True)


def remove_earlier(folder: Path, keep: int, step: int) -> None:
    """Leave ``keep`` checkpoints of before ``step``, and none of later: the run has gone another way since."""
    before = [path for path in list_earlier(folder) if path.name < f"step-{step:09d}.ckpt"]
    for path in set(list_earlier(folder)) - set(before[: max(0, keep)]):
        path.unlink(missing_ok=True)


def find_checkpoint(folder: Path, settings: dict[str, Any]) -> Path | None:
    """The newest checkpoint under ``folder`` that is whole; None when there is none at all.

    Raises:
        ClipsiftError: for one of another experiment, and when every one is damaged.
    """
    damaged: ClipsiftError | None = None
    for path in (folder / CHECKPOINT_NAME, *list_earlier(folder)):
        if path.is_file():
            try:
                check_settings(path, settings)
            except Damaged as error:
                logger.warning("%s", error)
                damaged = damaged or error
            else:
                if damaged:
                    logger.warning("training: resumes from %s", path)
                return path
    if damaged:
        raise damaged
    return None


class Damaged(ClipsiftError):
    """A checkpoint that cannot be used, whatever its settings were."""


def stamp_settings(checkpoint: dict[str, Any], settings: dict[str, Any]) -> None:
    """Put the run's settings (plain values) into a checkpoint."""
    checkpoint[_OURS] = {"settings": settings}


def check_settings(path: Path, settings: dict[str, Any]) -> None:
    """Refuse to continue from a checkpoint that another experiment has written.

    Raises:
        ClipsiftError: naming the settings that differ.
        Damaged: naming a file that is damaged or not ours.
    """
    try:
        check_archive(path)
        found = torch.load(path, map_location="cpu", mmap=True, weights_only=True)[_OURS]["settings"]
    except Exception as error:  # damaged zip archives and unpicklable content raise all sorts
        raise Damaged(
            f"{path}: is no checkpoint of clipsift's, or damaged ({type(error).__name__}); "
            "delete it to train from the one before, or from the start"
        ) from error
    found = {"trainer.precision": settings.get("trainer.precision")} | found  # an earlier release noted none
    changed = sorted(name for name in found.keys() | settings.keys() if found.get(name) != settings.get(name))
    if changed:
        raise ClipsiftError(
            f"{path}: was written with other settings ({', '.join(changed)}); "
            "restore them, choose another out, or delete the file to train from the start"
        )
