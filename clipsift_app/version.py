"""Which clipsift this is: its version and commit, the libraries that can change a number, the device."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

_CHECKOUT = Path(__file__).resolve().parents[1]

_PACKAGES = (
    *("clipsift", "torch", "torchvision", "lightning", "open_clip_torch", "torchmetrics", "webdataset"),
    *("timm", "numpy", "pillow", "pyarrow"),
)


def version_line() -> str:
    """What ``clipsift --version`` prints."""
    accelerator = "auto" if torch.cuda.is_available() else "cpu"
    parts = (
        f"clipsift {versions().get('clipsift', 'not installed')}",
        f"commit {commit() or 'unknown (no checkout)'}",
        f"torch {torch.__version__}",
        f"device {device_name(accelerator)}",
    )
    return ", ".join(parts)


def versions() -> dict[str, str]:
    """Name -> version of Python and of the installed packages that can change a number."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(accelerator: str) -> str:
    """The GPU's name, or the processor's kind."""
    if accelerator == "cpu" or not torch.cuda.is_available():
        return platform.processor() or platform.machine()
    return torch.cuda.get_device_name()


def commit() -> str | None:
    """The checkout's commit, with a plus when files were changed since; None when this is no file of a checkout."""
    try:
        _git("ls-files", "--error-unmatch", __file__)  # site-packages may lie inside somebody else's checkout
        changes = _git("status", "--porcelain", "--untracked-files=no")
        return _git("rev-parse", "HEAD") + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(_CHECKOUT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
