"""Where a run's numbers come from, and whether its files belong together."""

from __future__ import annotations

import shlex
from typing import Any

from clipsift_app.provenance import read_starts
from clipsift_app.report.run_data import RunData
from clipsift_app.version import versions
from clipsift_common.files import array_fingerprint


def provenance(run: RunData) -> dict[str, Any]:
    """``command`` that reruns the run, ``config`` as text, ``fingerprints`` as name -> text, ``starts`` as recorded.

    ``versions`` are those of the last start, and of this process when none was recorded.
    """
    starts = read_starts(run.path)
    return {
        "command": shlex.join(["clipsift", "reproduce", "--config", str(run.path / "config.yaml")]),
        "config": run.config_text,
        "fingerprints": _fingerprints(run),
        "starts": starts,
        "versions": starts[-1]["versions"] if starts else versions(),
    }


def _fingerprints(run: RunData) -> dict[str, str]:
    selection, training, summary = run.selection or {}, run.training or {}, run.summary or {}
    parents = selection.get("parents", {})
    found = {
        "features": parents.get("features"),
        **{str(name): value for name, value in (parents.get("subsets", {}) | parents.get("inputs", {})).items()},
        "subset file": selection.get("fingerprint"),
        "uids trained on": training.get("subset"),
        "training's settings": training.get("config"),
        "trained weights": training.get("weights"),
        "evaluated weights": summary.get("weights"),
    }
    return {name: value for name, value in found.items() if value}


def broken_links(run: RunData) -> list[str]:
    """What in the run directory was not made from what lies beside it; one sentence each."""
    found = []
    if run.training and run.subset and run.training["subset"] != array_fingerprint(run.subset.uids):
        found.append("The model was trained on another subset than the one in selection/.")
    if run.training and run.summary and run.summary["weights"] != run.training["weights"]:
        found.append("The evaluation is of other weights than those in training/.")
    return found
