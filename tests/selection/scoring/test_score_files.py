"""A score file that was damaged on the disk is never taken for a whole one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from selection.recipe.parsed import ParsedRecipe
from selection.scoring.files import ScoreFile, lost_rows_of, write_score_file
from selection.uids import format_uids, parse_uids

NUM_ROWS = 400


def written(folder: Path) -> tuple[Path, np.ndarray, list[str]]:
    uids = [f"{number * 7919:032x}" for number in range(NUM_ROWS)]
    scores = np.random.default_rng(0).standard_normal(NUM_ROWS).astype(np.float32)
    write_score_file(folder / "0.parquet", {"clip_score": scores}, "parent", {}, parse_uids(uids))
    return folder / "0.parquet", scores, uids


def test_a_flipped_bit_is_seen_wherever_it_is(tmp_path: Path) -> None:
    """The file is made again, refused by name, or gives what was written."""
    path, scores, uids = written(tmp_path)
    whole, rng = path.read_bytes(), random.Random(0)
    outcomes = {"stale": 0, "refused": 0, "same": 0}
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        if lost_rows_of(path, "parent") != {}:
            outcomes["stale"] += 1
            continue
        try:
            file = ScoreFile(0, path)
            assert np.array_equal(file.column("clip_score"), scores)
            assert format_uids(file.uids()) == uids
            outcomes["same"] += 1
        except ClipsiftError as error:
            assert "0.parquet: no whole score file" in str(error)  # noqa: PT017 - the other outcome is counted above
            assert "delete it to have it made again" in str(error)  # noqa: PT017
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200  # most of the file is pages


@pytest.mark.parametrize("step", [{"score": "random", "keep": 0.5}, {"score": "metadata_column", "column": "a"}])
def test_no_score_column_is_called_uid(step: dict[str, object]) -> None:
    with pytest.raises(ClipsiftError, match="name is a word other than uid"):
        ParsedRecipe.parse([{"keep": 0.5, **step, "name": "uid"}])
    both = {"score": "rank_sum", "of": [{**step, "name": "uid"}, {"score": "clip_score"}], "keep": 0.1}
    both["of"][0].pop("keep", None)
    with pytest.raises(ClipsiftError, match="name is a word other than uid"):
        ParsedRecipe.parse([both])
