"""The computations behind the page, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsift_app.report.agreement import agreement
from clipsift_app.report.captions import caption_change, caption_rows
from clipsift_app.report.figures import COLOURS, file_name
from clipsift_app.report.headline import count, points
from clipsift_app.report.pictures import Pairs, band_rows, printable
from clipsift_app.report.run_data import read_run
from clipsift_app.report.score_sample import ScoreSample, read_scores
from clipsift_app.report.truth import Truth, kind_shares
from clipsift_common.errors import ClipsiftError
from helpers.fake_run import FakeIndex, make_index, make_run
from selection.pool.index import Sample
from selection.subset import Subset
from selection.uids import format_uids


def write_scores(folder: Path, index: FakeIndex, sizes: tuple[int, ...]) -> np.ndarray:
    scores = np.arange(len(index.uids), dtype=np.float32)
    folder.mkdir()
    for part, rows in enumerate(np.split(np.arange(len(index.uids)), np.cumsum(sizes)[:-1])):
        table = {"uid": format_uids(index.uids[rows]), "score": scores[rows]}
        pq.write_table(pa.table(table), folder / f"{part:08d}.parquet")
    return scores


def test_scores_are_read_whole_when_they_fit(tmp_path: Path, index: FakeIndex) -> None:
    scores = write_scores(tmp_path / "scores", index, (50, 0, 120, 30))
    kept = Subset(index.uids[::3])
    sample = read_scores(tmp_path / "scores", kept)
    assert sample is not None
    assert not sample.sampled
    np.testing.assert_array_equal(sample.uids, index.uids)
    np.testing.assert_array_equal(sample.columns["score"], scores)
    np.testing.assert_array_equal(sample.kept, np.arange(200) % 3 == 0)


def test_large_scores_are_sampled_evenly_and_always_alike(tmp_path: Path, index: FakeIndex) -> None:
    write_scores(tmp_path / "scores", index, (50, 0, 120, 30))
    sample = read_scores(tmp_path / "scores", Subset(index.uids[:100]), limit=40)
    assert sample is not None
    assert (sample.num_rows, len(sample.uids), sample.sampled) == (200, 40, True)
    rows = sample.columns["score"].astype(int)
    np.testing.assert_array_equal(rows // 5, np.arange(40))  # one of every five
    assert len(set(rows % 5)) > 1
    np.testing.assert_array_equal(sample.uids, index.uids[rows])
    np.testing.assert_array_equal(sample.kept, rows < 100)
    again = read_scores(tmp_path / "scores", None, limit=40)
    assert again is not None
    np.testing.assert_array_equal(again.uids, sample.uids)


def test_score_file_without_a_column_is_named(tmp_path: Path, index: FakeIndex) -> None:
    write_scores(tmp_path / "scores", index, (100, 100))
    pq.write_table(pa.table({"uid": format_uids(index.uids[100:])}), tmp_path / "scores" / "00000001.parquet")
    with pytest.raises(ClipsiftError, match=r"00000001\.parquet"):
        read_scores(tmp_path / "scores", None)


def test_no_scores(tmp_path: Path) -> None:
    assert read_scores(tmp_path, None) is None


def test_agreement_by_hand() -> None:
    columns = {
        "a": np.array([1.0, 2, 3, 4, np.nan]),
        "b": np.array([10.0, 30, 20, 40, 0]),
        "c": np.array([4.0, 3, 1, 1, 9]),
    }
    result = agreement(columns, share=0.5)
    assert result is not None
    # Spearman over the four rows that all have: 1 - 6 * sum d^2 / (n (n^2 - 1)); with the tie in c: -3 sqrt(10) / 10.
    np.testing.assert_allclose(result.correlation[0], [1, 1 - 6 * 2 / 60, -3 / 10**0.5])
    # Best half of a: rows 2, 3; of b: rows 1, 3; of c: rows 0, 1.
    np.testing.assert_allclose(result.overlap, [[1, 1 / 3, 0], [1 / 3, 1, 1 / 3], [0, 1 / 3, 1]])


def test_agreement_needs_two_columns() -> None:
    assert agreement({"a": np.arange(4.0)}, 0.5) is None
    assert agreement({}, 0.5) is None
    assert agreement({"a": np.full(3, np.nan), "b": np.arange(3.0)}, 0.5) is None


def test_band_is_one_end_in_falling_order() -> None:
    scores = np.array([5.0, 1, 4, np.nan, 2, 3, 9, 0, 7])
    among = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0], bool)
    assert scores[band_rows(scores, among, upper=True)].tolist() == [9, 5, 4, 3, 2, 1]
    assert scores[band_rows(scores, among, upper=False)].tolist() == [5, 4, 3, 2, 1, 0]
    assert band_rows(scores, np.zeros(9, bool), upper=True).tolist() == []
    many = np.arange(1000.0)
    assert band_rows(many, many >= 0, upper=True).tolist() == [999, 995, 991, 988, 984, 980]  # over the best 20


def test_kind_shares_by_hand(tmp_path: Path, index: FakeIndex) -> None:
    run = make_run(tmp_path / "run", index)
    kinds = np.array(index.kinds)
    kept = np.r_[np.flatnonzero(kinds == "good")[:40], np.flatnonzero(kinds == "text")[:5]]
    Subset(np.repeat(index.uids[kept], 2)).save(run / "selection" / "subset.npy")  # repeats count once
    truth = index.write_truth(tmp_path / "truth.parquet")
    assert kind_shares(run, truth) == {"good": 0.8, "text": 0.1, "generic": 0.0, "mismatched": 0.0}


def test_kind_shares_of_another_pool_are_not_zero_but_absent(tmp_path: Path, index: FakeIndex) -> None:
    run = make_run(tmp_path / "run", index)
    assert kind_shares(run, make_index(seed=1).write_truth(tmp_path / "other.parquet")) == {}


def test_truth_that_is_none(tmp_path: Path, index: FakeIndex) -> None:
    run = make_run(tmp_path / "run", index)
    pq.write_table(pa.table({"uid": ["1"]}), tmp_path / "truth.parquet")
    with pytest.raises(ClipsiftError, match=r"truth\.parquet"):
        kind_shares(run, tmp_path / "truth.parquet")
    (run / "selection" / "subset.npy").unlink()
    with pytest.raises(ClipsiftError, match="run the selection first"):
        kind_shares(run, index.write_truth(tmp_path / "truth.parquet"))


def test_kinds_of_unknown_uids(tmp_path: Path, index: FakeIndex) -> None:
    truth = Truth(index.write_truth(tmp_path / "truth.parquet"))
    assert truth.kinds_of(index.uids[[3, 0]]) == ["text", "good"]
    assert truth.kinds_of(make_index(2, seed=1).uids) == [None, None]


def test_caption_change_by_hand() -> None:
    pool = make_index(40)
    captions = ["Red car"] * 20 + [f"buy item{i} now" for i in range(20)]
    samples = [Sample(s.uid, s.shard, s.key, s.image, text) for s, text in zip(pool.samples, captions)]
    samples[39] = Sample(samples[39].uid, "", "", b"no image", samples[39].caption)
    index = FakeIndex(pool.uids, samples, [])
    sample = ScoreSample(pool.uids, {}, np.arange(40) < 20, 40)
    before, after = caption_rows(sample)
    change = caption_change(Pairs(index, sample, [before, after]), before, after)
    assert change is not None
    assert (change.pool.num_samples, change.kept.num_samples) == (40, 20)
    assert (change.pool.words, change.kept.words) == (2.5, 2)
    assert (change.pool.unique, change.kept.unique) == (0.5, 0)
    assert (change.pool.vocabulary, change.kept.vocabulary) == (24, 2)
    assert change.kept.pixels == 36
    assert change.gained == [("car", pytest.approx(41 / 21)), ("red", pytest.approx(41 / 21))]
    assert {word for word, _ in change.lost} == {"buy", "now"}
    assert change.lost[0][1] == pytest.approx(20.5 / 41 * 21 / 0.5)


def test_metrics_with_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "config.yaml").write_text("seed_everything: 3\nname: null\n")
    (tmp_path / "training" / "metrics.csv").write_text("step,loss\n1,\n2,0.5\n3,oops\n")
    run = read_run(tmp_path)
    assert (run.name, run.seed) == (tmp_path.name, 3)
    assert run.metrics is not None
    np.testing.assert_array_equal(run.metrics["loss"], [np.nan, 0.5, np.nan])


def test_text_from_the_web_is_made_printable() -> None:
    assert printable("a\x00b\u202etxt.exe\n\ud800 c", 40) == "a b txt.exe c"
    assert printable("x" * 50, 10) == "x" * 9 + "\N{HORIZONTAL ELLIPSIS}"


def test_names_and_numbers() -> None:
    assert file_name("scores_../../etc passwd") == "scores__etc_passwd"
    assert [count(value) for value in (999, 12_800_000, 1.28e10)] == ["999", "12.8 M", "12.8 B"]
    assert [points(value) for value in (0.0123, -0.02, None)] == ["+1.2", "\N{MINUS SIGN}2.0", "\N{EN DASH}"]


def test_colours_can_be_told_apart() -> None:
    assert len(set(COLOURS.values())) == len(COLOURS)
