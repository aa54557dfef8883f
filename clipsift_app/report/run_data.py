"""A run directory as one typed object; what a stage has not written yet is None."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json
from selection.subset import Subset


@dataclass(frozen=True)
class RunData:
    """What the stages wrote under one run directory.

    Attributes:
        path: the run directory.
        name: the recipe's name: ``name`` of the configuration, else the folder's name. Runs of one name that differ
            in the seed are repetitions of one experiment.
        seed: ``seed_everything`` of the configuration.
        config_text: ``config.yaml`` as it is written.
        selection: ``selection/subset.json``.
        training: ``training/training.json``.
        summary: ``evaluation/summary.json``.
        metrics: columns of ``training/metrics.csv``, (steps,) float64 each, NaN where a cell is empty.
        losses: stage -> ``data_report.json``.
    """

    path: Path
    name: str
    seed: int | None
    config_text: str | None
    selection: dict[str, Any] | None
    training: dict[str, Any] | None
    summary: dict[str, Any] | None
    metrics: dict[str, np.ndarray] | None
    losses: dict[str, dict[str, Any]]

    @property
    def truth(self) -> Path | None:
        """The file of kinds that the configuration names, if it is still there."""
        named = _parse_config(self.path / "config.yaml", self.config_text).get("truth")
        return Path(named) if named and Path(named).is_file() else None

    @property
    def row(self) -> str:
        """The published row that the run is one of, if there is one of that name."""
        return str(_parse_config(self.path / "config.yaml", self.config_text).get("published") or self.name)

    @property
    def scores_folder(self) -> Path:
        return self.path / "selection" / "scores"

    @property
    def kept_share(self) -> float | None:
        """Distinct samples kept, as a share of the pool, in [0, 1]."""
        if self.selection is None or not self.selection["num_pool"]:
            return None
        return self.selection["num_unique"] / self.selection["num_pool"]

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The selection's steps in order; empty when there was no selection or it had none."""
        return (self.selection or {}).get("steps", [])

    @property
    def tasks(self) -> dict[str, dict[str, Any]]:
        """Task key -> its entry of the summary, for the tasks that have a score."""
        entries = self.summary["tasks"] if self.summary else []
        return {entry["key"]: entry for entry in entries if entry["main_metric"] is not None}

    @cached_property
    def subset(self) -> Subset | None:
        path = self.path / "selection" / "subset.npy"
        return Subset.load(path) if path.is_file() else None


def read_run(run: Path) -> RunData:
    """Read a run directory.

    Raises:
        ClipsiftError: when ``run`` is no run directory, or one of its files is damaged.
    """
    run = Path(run)
    config_text = _text(run / "config.yaml")
    config = _parse_config(run / "config.yaml", config_text)
    data = RunData(
        path=run,
        name=str(config.get("name") or run.resolve().name),
        seed=config.get("seed_everything"),
        config_text=config_text,
        selection=_json(run / "selection" / "subset.json"),
        training=_json(run / "training" / "training.json"),
        summary=_json(run / "evaluation" / "summary.json"),
        metrics=_metrics(run / "training" / "metrics.csv"),
        losses={
            stage: report
            for stage in ("selection", "training")
            if (report := _json(run / stage / "data_report.json")) is not None
        },
    )
    if config_text is None and not (data.selection or data.training or data.summary):
        raise ClipsiftError(f"{run}: not a run directory (no config.yaml); give the folder that --out named")
    return data


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _parse_config(path: Path, text: str | None) -> dict[str, Any]:
    try:
        config = yaml.safe_load(text or "")
    except yaml.YAMLError as error:
        raise ClipsiftError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    return config if isinstance(config, dict) else {}


def _metrics(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    with open(path, encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        rows = list(reader)
    return {name: np.array([_number(row[name]) for row in rows]) for name in reader.fieldnames or []} if rows else None


def _number(cell: str | None) -> float:
    try:
        return float(cell or "nan")
    except ValueError:
        return float("nan")
