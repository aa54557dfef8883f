"""Where a run's numbers come from, and whether its files belong together."""

from __future__ import annotations

import platform
import shlex
from importlib import metadata
from typing import Any

from common.files import array_fingerprint
from pipeline.report.run_data import RunData

PACKAGES = ("clipsift", "torch", "lightning", "open_clip_torch", "webdataset", "numpy")


def provenance(run: RunData) -> dict[str, Any]:
    """``command`` that reruns the run, ``config`` as text, ``fingerprints`` and ``versions`` as name -> text."""
    return {
        "command": shlex.join(["clipsift", "reproduce", "--config", str(run.path / "config.yaml")]),
        "config": run.config_text,
        "fingerprints": _fingerprints(run),
        "versions": _versions(),
    }


def _fingerprints(run: RunData) -> dict[str, str]:
    selection, training, summary = run.selection or {}, run.training or {}, run.summary or {}
    parents = selection.get("parents", {})
    found = {
        "features": parents.get("features"),
        **{str(name): value for name, value in parents.get("subsets", {}).items()},
        "subset file": selection.get("fingerprint"),
        "uids trained on": training.get("subset"),
        "training's settings": training.get("config"),
        "trained weights": training.get("weights"),
        "evaluated weights": summary.get("weights"),
    }
    return {name: value for name, value in found.items() if value}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def broken_links(run: RunData) -> list[str]:
    """What in the run directory was not made from what lies beside it; one sentence each."""
    found = []
    if run.training and run.subset and run.training["subset"] != array_fingerprint(run.subset.uids):
        found.append("The model was trained on another subset than the one in selection/.")
    if run.training and run.summary and run.summary["weights"] != run.training["weights"]:
        found.append("The evaluation is of other weights than those in training/.")
    return found
