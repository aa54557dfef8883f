"""Results on disk: DataComp's ``eval_results.jsonl``, appended task by task, and ``summary.json`` beside it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import read_json, write_json, write_text, writing
from evaluation.tasks import GROUPS, SCORED, TASKS

RESULTS_NAME = "eval_results.jsonl"
SUMMARY_NAME = "summary.json"

Result = dict[str, Any]
"""``key``, ``dataset`` (display name), ``metrics`` (with ``main_metric``); beside DataComp's: ``random`` (score of a
guess), ``num_samples``, ``seconds``."""


def summarise(results: Sequence[Result], identity: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """ImageNet, the group means and the average over 38, each None unless every member has a score.

    Args:
        results: lines of ``eval_results.jsonl``; unknown keys (a task of another project) are left out.
        identity: what the results belong to: ``weights``, ``rules``, ``precision``.

    Raises:
        ClipsiftError: if a task comes twice.
    """
    by_key: dict[str, Result] = {}
    for result in results:
        if by_key.setdefault(result["key"], result) is not result:
            raise ClipsiftError(f"{result['key']} is there twice among the results; keep one of the two")
    scores = {key: _number(by_key[key]["metrics"].get("main_metric")) for key in TASKS if key in by_key}
    scored = {key: score for key, score in scores.items() if score is not None and key in SCORED}
    groups = {group: _mean(members, scored) for group, members in GROUPS.items()}
    return {
        "imagenet": groups["ImageNet"],
        "groups": groups,
        "average": _mean(SCORED, scored),
        "num_scored": len(scored),
        "missing": [key for key in SCORED if key not in scored],
        "mean_of_scored": _mean(tuple(scored), scored),
        **{name: (identity or {}).get(name) for name in ("rules", "precision", "weights")},
        "tasks": [
            {
                "key": key,
                "dataset": TASKS[key].name,
                "main_metric_name": TASKS[key].main_metric,
                "main_metric": score,
                "random": by_key[key].get("random", TASKS[key].random),
                "seconds": by_key[key].get("seconds"),
                "num_samples": by_key[key].get("num_samples"),
            }
            for key, score in scores.items()
        ],
    }


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(value) else float(value)


def _mean(members: Sequence[str], scored: Mapping[str, float]) -> float | None:
    """Mean of ``members``; None if one has no score, or there are none."""
    if not members or any(key not in scored for key in members):
        return None
    return math.fsum(scored[key] for key in members) / len(members)


class ResultStore:
    """The results of one model under one set of rules; only rank 0 touches the files.

    Args:
        folder: where the files are; None: nothing is kept.
        identity: ``weights`` (fingerprint), ``rules`` and ``precision``; results of another identity are not continued.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder, self.identity = folder, dict(identity)
        self.results: dict[str, Result] = {}

    def open(self) -> None:
        """Read what an earlier call left, on all ranks alike.

        A last line that was cut off is dropped. Raises :class:`ClipsiftError` when the results there are of another
        model, rules or precision, or cannot be told to be of this one.
        """
        self.results = on_rank_zero(self._read)

    def _read(self) -> dict[str, Result]:
        folder = self.folder
        if folder is None:
            return {}
        path = folder / RESULTS_NAME
        if path.is_file():
            self._check_identity(folder)
            self.results = {result["key"]: result for result in _read_lines(path)}
        self._write_summary(folder)
        return self.results

    def _check_identity(self, folder: Path) -> None:
        summary = folder / SUMMARY_NAME
        if not summary.is_file():
            raise ClipsiftError(
                f"{folder / RESULTS_NAME} has no {SUMMARY_NAME} beside it; move it or choose another out"
            )
        there = read_json(summary)
        for name, value in self.identity.items():
            if there.get(name) != value:
                raise ClipsiftError(
                    f"{folder} holds results with {name} {there.get(name)}, not {value}; "
                    "delete it or choose another out"
                )

    def append(self, result: Result) -> None:
        """Add a task's result, on all ranks; on disk when this returns."""
        self.results[result["key"]] = result
        if self.folder is not None:
            on_rank_zero(partial(self._write, self.folder, result))

    def _write(self, folder: Path, result: Result) -> None:
        line = json.dumps(result) + "\n"  # NaN for empty groups, as DataComp writes it
        path = folder / RESULTS_NAME
        with writing(path), open(path, "ab") as handle:
            handle.write(line.encode())
            handle.flush()
            os.fsync(handle.fileno())
        self._write_summary(folder)

    def _write_summary(self, folder: Path) -> None:
        write_json(folder / SUMMARY_NAME, self.summary())

    def summary(self) -> dict[str, Any]:
        """:func:`summarise` of all results there are."""
        return summarise(list(self.results.values()), self.identity)


def _read_lines(path: Path) -> list[Result]:
    """The whole lines of a results file; one that a kill cut off at the end is removed from the file."""
    text = path.read_text(encoding="utf-8", errors="replace")
    whole, _, torn = text.rpartition("\n")
    lines = whole.split("\n") if whole else []
    try:
        results = [json.loads(line) for line in lines]
        names = [(result["key"], result["metrics"]["main_metric"]) for result in results]
    except (ValueError, KeyError, TypeError) as error:
        raise ClipsiftError(f"{path} has a line that is no result ({first_line(error)}); delete that line") from error
    if len({key for key, _ in names}) < len(names):
        raise ClipsiftError(f"{path} has a task twice; delete one of its lines")
    if torn:
        write_text(path, "".join(f"{line}\n" for line in lines))
    return results
