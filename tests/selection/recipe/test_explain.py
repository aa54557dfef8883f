from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsift_common.errors import ClipsiftError
from selection.recipe.explain import explain, format_explanation
from selection.runner import Recipe
from selection.uids import parse_uids, uid_column

SCORES = {"good": np.array([9, 8, 7, 7, 7, 1, np.nan, 2], np.float32), "fine": np.arange(8, dtype=np.float32)}


def uid(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Eight samples, uids 0 to 7: step one keeps 0 to 3 (of the three ties the two lower uids), step two 2 and 3."""
    uids = parse_uids([uid(number) for number in range(8)])
    folder = tmp_path / "metadata"
    folder.mkdir()
    for stem, rows in (("a", slice(0, 3)), ("b", slice(3, 8))):
        columns = {name: pa.array(values[rows]) for name, values in SCORES.items()}
        pq.write_table(pa.table({"uid": uid_column(uids[rows])} | columns), folder / f"{stem}.parquet")
    steps = [
        {"score": "metadata_column", "column": "good", "name": "good", "keep": 0.5},
        {"score": "metadata_column", "column": "fine", "name": "fine", "keep": 0.25},
    ]
    Recipe(steps).run(str(folder), out=tmp_path / "run")
    return tmp_path / "run"


def outcomes(run: Path, number: int) -> list[str]:
    return [score.outcome for score in explain(run, uid(number)).scores]


def test_the_step_that_dropped_a_sample_is_told_ties_included(run: Path) -> None:
    assert outcomes(run, 0) == ["kept", "dropped"]
    assert outcomes(run, 2) == ["kept", "kept"]
    assert outcomes(run, 3) == ["kept", "kept"]
    assert outcomes(run, 4) == ["dropped", "was out"]  # scores as 2 and 3 do; its uid is higher
    assert outcomes(run, 6) == ["dropped", "was out"]


def test_ranks_and_quantiles(run: Path) -> None:
    found = explain(run, uid(4))
    assert (found.stem, found.row, found.multiplicity) == ("b", 1, 0)
    first, second = found.scores
    assert (first.value, first.rank, first.num_scored, first.quantile) == (7, 3, 7, 1 - 2 / 7)
    assert (second.rank, second.num_scored) == (4, 8)
    text = format_explanation(found)
    assert "not kept" in text
    assert "rank 3 of 7" in text
    assert "no usable features" in format_explanation(explain(run, uid(6)))
    assert "kept\n" in format_explanation(explain(run, "3"))  # without its leading zeros


def test_unknown_samples_and_runs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match="not in the run's pool"):
        explain(run, uid(99))
    with pytest.raises(ClipsiftError, match="not 32 hex"):
        explain(run, "xyz")
    with pytest.raises(ClipsiftError, match="no finished selection"):
        explain(tmp_path, uid(1))


def test_a_combination_has_no_score_of_its_own_to_show(tmp_path: Path) -> None:
    folder = tmp_path / "metadata"
    folder.mkdir()
    columns = {"uid": uid_column(parse_uids([uid(number) for number in range(8)]))}
    columns |= {name: pa.array(values) for name, values in SCORES.items()}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    parts = [{"score": "metadata_column", "column": name, "name": name} for name in SCORES]
    recipe = Recipe([{"score": "rank_sum", "of": parts, "keep": 0.5}])
    recipe.run(str(folder), out=tmp_path / "run")
    told = explain(tmp_path / "run", uid(4))
    assert told.scores == []
    assert "rank_sum: judges what is left as a whole" in told.operations[0]
