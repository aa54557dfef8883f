"""Scores that are made part by part: whose they are, and which parts are missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipsift_common.distributed import gather_objects, on_rank_zero
from clipsift_common.engines.base import GROUP, part_of
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import read_json, write_json
from selection.features.files import FeatureRows
from selection.scoring.columns import ScorePlan, is_scored

_NOTE = "parts-{}.json"  # with the identity of the scores: into how many parts they are split
_NAMED = 8  # parts and files that a message names


def claim(folder: Path, plan: ScorePlan, total: int) -> None:
    """Note in ``folder`` that the scores of ``plan`` are made there by ``total`` parts.

    Parts that are made with other settings are refused there, also when both begin at the same moment.

    Raises:
        ClipsiftError: when there are parts of other scores.
    """
    note = folder / _NOTE.format(plan.identity)
    was_there = note.is_file()
    write_json(note, {"parts": total})
    try:
        _refuse_others(folder, note)
    except ClipsiftError:
        if not was_there:
            note.unlink(missing_ok=True)
        raise


def _refuse_others(folder: Path, note: Path) -> None:
    if others := [path for path in sorted(folder.glob(_NOTE.format("*"))) if path != note]:
        raise ClipsiftError(
            f"{others[0]}: there are parts of scores with other settings (targets' features and seed count, too); "
            "use another --out, or delete it and start over"
        )


def check_parts(files: Sequence[FeatureRows], plan: ScorePlan, folder: Path) -> None:
    """See that, where parts were begun in ``folder``, all ``files`` have their scores; a collective call.

    Raises:
        ClipsiftError: naming those that are missing, or when they are parts of other scores.
    """
    total = on_rank_zero(lambda: _num_parts(folder, plan))
    if not total:
        return
    blocks = plan.blocks(files)
    places = range(len(blocks))
    mine = [place for place in GROUP.share(places) if not is_scored(blocks[place], plan, folder / "scores")]
    missing = sorted(place for share in gather_objects(mine) for place in share)
    if missing:
        parts = sorted({part_of(place, total).number for place in missing})
        stems = [file.stem for place in missing for file in blocks[place]]
        raise ClipsiftError(
            f"{folder}: parts {_first(parts)} of {total} are missing (no scores of {_first(stems)}); "
            f"clipsift score --part {parts[0]}/{total} makes the first of them, clipsift score without --part all"
        )


def _num_parts(folder: Path, plan: ScorePlan) -> int:
    """Into how many parts the scores are split, 0 when they are not."""
    note = folder / _NOTE.format(plan.identity)
    _refuse_others(folder, note)
    return int(read_json(note)["parts"]) if note.is_file() else 0


def _first(things: Sequence[object]) -> str:
    more = f" and {len(things) - _NAMED:,} more" if len(things) > _NAMED else ""
    return ", ".join(map(str, things[:_NAMED])) + more
