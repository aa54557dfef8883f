"""The verb ``score``: the score columns of a recipe, and no choice yet; all of them, or by part, without a group."""

from __future__ import annotations

from argparse import ArgumentParser

from clipsift_app.stages import run_score, run_score_part
from clipsift_app.start import start, start_part
from clipsift_common.engines.base import Part
from clipsift_common.progress import say

_HELP = "--part NUMBER/TOTAL: this part alone, such as 3/200; the other settings are those of select:"


def run(arguments: list[str]) -> None:
    """``--part`` is a start's own and no setting of a run, which a config could have."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--part", nargs="?", const="")
    given, rest = parser.parse_known_args(arguments)
    if {"-h", "--help"} & set(rest):
        print(_HELP)
    if given.part is None:
        return say(f"score: {run_score(start('score', rest))}")
    part = Part.parse(given.part)
    say(f"score: part {part}: {run_score_part(start_part(rest, part), part)}")
