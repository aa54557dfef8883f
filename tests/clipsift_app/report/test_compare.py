"""Several runs in one table and on one page; means and spreads against numpy's."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from clipsift_app.report import build_report
from clipsift_app.report.comparison import build_comparison_page
from clipsift_app.report.rows import compare
from clipsift_app.report.significance import DRAWS, sign_flip_p
from clipsift_app.report.tables import FORMATS, format_comparison
from clipsift_common.errors import ClipsiftError
from helpers.fake_run import NUM_TASKS, TASKS, FakeIndex, make_index, make_run, write_summary
from selection.subset import Subset

BASE = (0.20, 0.23, 0.21)  # accuracy of the first task without filter, by seed
BEST = (0.30, 0.31, 0.35)
TASK_STEPS = 0.02 * np.arange(len(TASKS)).mean()  # what the mean of the tasks has more than the first


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, index: FakeIndex) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for seed in range(3):
        options = {"seed": seed, "accuracy": BEST[seed]}
        made.append(make_run(folder / f"two-{seed}", index, name="two_steps", keep=(0.4, 0.2), **options))
        options = {"seed": seed, "accuracy": BASE[seed]}
        made.append(make_run(folder / f"none-{seed}", index, name="no|filter", keep=(), **options))
    return [*made, make_run(folder / "single", index, name=None, keep=(0.5,), accuracy=0.1)]


def test_seeds_of_a_recipe_are_one_row(runs: list[Path]) -> None:
    rows = {row.recipe: row for row in compare(runs)}
    assert list(rows) == ["no|filter", "two_steps", "single"]  # what keeps most is the baseline
    row = rows["two_steps"]
    assert row.seeds == (0, 1, 2)
    assert row.kept is not None
    assert row.samples_seen is not None
    assert row.imagenet is not None
    assert row.mean is not None
    assert (row.kept.mean, row.samples_seen.mean, row.num_tasks) == (0.2, 7680, len(TASKS))
    assert (row.imagenet.mean, row.imagenet.spread) == pytest.approx((np.mean(BEST), np.std(BEST, ddof=1)))
    assert (row.mean.mean, row.mean.spread, row.mean.num) == pytest.approx(
        (np.mean(BEST) + TASK_STEPS, np.std(BEST, ddof=1), 3)
    )
    assert row.average is None
    assert row.groups["VTAB"] is None
    assert row.tasks["cifar10"].mean == pytest.approx(np.mean(BEST) + 0.06)
    single = rows["single"]
    assert single.mean is not None
    assert (single.mean.spread, single.mean.num) == (None, 1)


def test_difference_is_to_the_baseline(runs: list[Path]) -> None:
    base, best, single = compare(runs)
    assert base.difference is None
    assert best.difference is not None
    assert best.difference.mean == pytest.approx(np.mean(BEST) - np.mean(BASE))
    assert best.difference.spread == pytest.approx(np.hypot(np.std(BEST, ddof=1), np.std(BASE, ddof=1)))
    assert best.clear
    assert single.difference is not None
    assert single.difference.spread is None  # one seed says nothing about the spread
    assert not single.clear
    other = compare(runs, baseline="two_steps")
    assert other[0].recipe == "two_steps"
    assert other[1].difference is not None
    assert other[1].difference.mean == pytest.approx(-best.difference.mean)


def test_mean_is_over_the_tasks_that_all_have(tmp_path: Path, index: FakeIndex) -> None:
    few = make_run(tmp_path / "few", index, name="few", tasks=TASKS[:2], accuracy=0.5)
    many = make_run(tmp_path / "many", index, name="many", keep=(), accuracy=0.1)
    rows = compare([few, many])
    assert [row.num_tasks for row in rows] == [2, 2]
    assert [row.mean.mean if row.mean else None for row in rows] == pytest.approx([0.11, 0.51])
    assert "mean of 2 tasks" in format_comparison(rows)


def test_runs_without_evaluation_or_training(tmp_path: Path, index: FakeIndex) -> None:
    selected = make_run(tmp_path / "selected", index, name="selected")
    (selected / "evaluation" / "summary.json").unlink()
    (selected / "training" / "training.json").unlink()
    evaluated = make_run(tmp_path / "evaluated", index, name="evaluated", keep=())
    rows = compare([selected, evaluated])
    assert [row.recipe for row in rows] == ["evaluated", "selected"]
    assert (rows[1].mean, rows[1].samples_seen, rows[1].difference) == (None, None, None)
    assert rows[0].num_tasks == len(TASKS)
    assert "selected" in format_comparison(compare([selected]))


def test_average_takes_all_tasks_of_all_runs(tmp_path: Path, index: FakeIndex) -> None:
    runs = [make_run(tmp_path / str(seed), index, name="same", seed=seed) for seed in range(2)]
    entries = [(f"task{number}", f"Task {number}", 0.01 * number, None) for number in range(NUM_TASKS)]
    write_summary(runs[0] / "evaluation", entries)
    assert compare(runs)[0].average is None
    write_summary(runs[1] / "evaluation", entries)
    row = compare(runs)[0]
    assert row.average is not None
    assert row.average.mean == pytest.approx(0.185)
    text = format_comparison([row])
    assert "average of 38" in text
    assert "mean of" not in text


def test_what_makes_runs_hard_to_compare_is_logged(
    tmp_path: Path, index: FakeIndex, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [make_run(tmp_path / name, index, name="same") for name in "ab"]
    summary = json.loads((runs[0] / "evaluation" / "summary.json").read_text())
    (runs[0] / "evaluation" / "summary.json").write_text(json.dumps(summary | {"rules": "corrected"}))
    with caplog.at_level(logging.WARNING, logger="clipsift"):
        compare(runs)
    assert "same has a seed twice" in caplog.text
    assert "different rules: corrected, leaderboard" in caplog.text


def test_wrong_input_is_named(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(ClipsiftError, match=r"no run of the baseline 'clip'; there are two_steps, no\|filter, single"):
        compare(runs, baseline="clip")
    with pytest.raises(ClipsiftError, match=f"{tmp_path}: not a run directory"):
        compare([tmp_path])
    with pytest.raises(ClipsiftError, match="no runs given"):
        compare([])
    with pytest.raises(ClipsiftError, match="unknown format 'html'; choose one of table, markdown, csv, latex"):
        format_comparison(compare(runs), "html")


def test_csv_has_all_digits(runs: list[Path]) -> None:
    rows = list(csv.DictReader(io.StringIO(format_comparison(compare(runs), "csv"))))
    best = rows[1]
    assert best["recipe"] == "two_steps"
    assert best["runs"] == "3"
    assert float(best["ImageNet"]) == np.mean(BEST)
    assert float(best["ImageNet spread"]) == pytest.approx(np.std(BEST, ddof=1), rel=1e-14)
    assert rows[2]["ImageNet spread"] == ""
    assert rows[0]["vs no|filter"] == ""


def test_text_formats(runs: list[Path]) -> None:
    rows = compare(runs)
    mean, spread = 100 * np.mean(BEST), 100 * np.std(BEST, ddof=1)
    markdown = format_comparison(rows, "markdown").splitlines()
    assert markdown[2].startswith("| no\\|filter | 3 | 100.0 | 21.3 ± 1.5 |")
    assert f"| {mean:.1f} ± {spread:.1f} |" in markdown[3]
    assert len({line.replace("\\|", "").count("|") for line in markdown}) == 1
    latex = format_comparison(rows, "latex")
    assert f"${mean:.1f} \\pm {spread:.1f}$" in latex
    assert r"two\_steps & 3 & $20.0$ & $32.0 \pm 2.6$" in latex
    assert r"$7{,}680$ \\" in latex
    assert latex.count(r" \\") == 4
    table = format_comparison(rows, "table").splitlines()
    assert f"{mean:.1f} ± {spread:.1f}" in table[3]
    assert all("VTAB" not in format_comparison(rows, format) for format in FORMATS)  # nobody has it


def test_page_shows_the_comparison(tmp_path: Path, runs: list[Path], index: FakeIndex) -> None:
    truth = index.write_truth(tmp_path / "truth.parquet")
    build_report(runs[0])
    out = runs[0].parent / "compared"
    page = build_comparison_page(runs, out, index, truth)
    text = page.read_text()
    assert page == out / "index.html"
    assert re.findall(r'<section id="(\w+)"', text) == ["bars", "tasks", "kinds", "overlap", "pictures", "runs"]
    assert f"two_steps is best: {np.mean(BEST) + TASK_STEPS:.1%} over 5 tasks" in text
    assert "more than the spread" in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<script" not in text
    links = re.findall(r'<a href="([^"#][^"]*)"', text)
    assert [(out / unquote(link)).resolve() for link in links] == [(runs[0] / "report" / "index.html").resolve()]
    plots = {path.stem for path in out.glob("*.png")}
    assert plots == {"imagenet", "mean", "tasks_Main_metric", "kinds"}
    assert len(plots) == text.count('<svg class="plot"')


def test_overlap_by_hand(tmp_path: Path, index: FakeIndex) -> None:
    runs = [make_run(tmp_path / name, index, name=name) for name in ("one", "other")]
    Subset(index.uids[:60]).save(runs[0] / "selection" / "subset.npy")
    Subset(np.repeat(index.uids[40:80], 3)).save(runs[1] / "selection" / "subset.npy")
    text = build_comparison_page(runs, tmp_path / "page").read_text()
    assert re.findall(r"<td style=[^>]*>(\d\.\d\d)</td>", text) == ["1.00", "0.25", "0.25", "1.00"]  # 20 of 80


def test_each_run_is_judged_by_its_own_truth(tmp_path: Path) -> None:
    runs = []
    for seed in range(2):
        pool = make_index(seed=seed)
        run = make_run(tmp_path / f"run{seed}", pool, seed=seed, keep=(0.25,), name="half")
        good = pool.uids[: 40 * (seed + 1) : 4]  # 10 of the 50 good ones, then 20
        Subset(good).save(run / "selection" / "subset.npy")
        truth = pool.write_truth(tmp_path / f"truth{seed}.parquet")
        with open(run / "config.yaml", "a") as config:
            config.write(f"truth: {truth}\n")
        runs.append(run)
    text = build_comparison_page(runs, tmp_path / "page").read_text()
    shares = dict(re.findall(r'<th scope="row">(\w+)</th><td style=[^>]*>([\d.]+%)</td>', text))
    assert shares == {"good": "30.0%", "mismatched": "0.0%", "generic": "0.0%", "text": "0.0%"}


def test_page_of_runs_that_only_selected(tmp_path: Path, index: FakeIndex) -> None:
    run = make_run(tmp_path / "run", index)
    for path in [*run.glob("evaluation/*"), *run.glob("training/*")]:
        path.unlink()
    text = build_comparison_page([run], tmp_path / "page").read_text()
    assert "No run has been evaluated yet." in text
    assert re.findall(r'<section id="(\w+)"', text) == ["runs"]


def test_page_of_runs_without_a_common_task(tmp_path: Path, index: FakeIndex) -> None:
    runs = [
        make_run(tmp_path / str(place), index, name=str(place), tasks=TASKS[place : place + 1]) for place in range(2)
    ]
    text = build_comparison_page(runs, tmp_path / "page").read_text()
    assert "The runs have no task in common." in text
    assert "mean of" not in text


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.3], 2 / 8),  # only all signs as they are, or all turned, are as far
        ([0.1, 0.1, -0.1], 1.0),
        ([0.1, 0.2, 0.3, -0.05], 4 / 16),  # sums of 0.55 or more: two patterns, and their opposites
        ([0.0, 0.0], 1.0),
        ([0.5], None),
    ],
)
def test_sign_flips_by_hand(differences: list[float], p: float | None) -> None:
    assert sign_flip_p(differences) == p


def test_sign_flips_of_many_pairs_are_drawn() -> None:
    rng = np.random.default_rng(0)
    assert sign_flip_p(rng.normal(1, 0.5, 38).tolist()) == 1 / (DRAWS + 1)
    assert sign_flip_p([1.0, -1.0] * 19) == 1.0
    exact = sign_flip_p(few := rng.normal(0.3, 1, 16).tolist())
    drawn = sign_flip_p([*few, 0.0])  # a zero changes nothing but the way it is computed
    assert exact is not None
    assert drawn == pytest.approx(exact, abs=0.01)


def test_differences_have_p_values_over_tasks_and_seeds(runs: list[Path]) -> None:
    base, best, single = compare(runs)
    assert (base.p_tasks, base.p_seeds) == (None, None)
    assert (best.p_tasks, best.p_seeds) == (2 / 2 ** len(TASKS), 2 / 8)  # better on every task, with every seed
    assert single.p_seeds is None  # one seed
    text = format_comparison([base, best, single])
    assert "p over tasks" in text
    assert "0.062" in text or "0.063" in text


def test_published_numbers_stand_beside_and_unverified_ones_are_marked(tmp_path: Path, index: FakeIndex) -> None:
    runs = [
        make_run(tmp_path / "a", index, name="medium_s_cliploss_normsim", accuracy=0.3),
        make_run(tmp_path / "b", index, name="small_clip_score", keep=(), accuracy=0.06),
        make_run(tmp_path / "c", index, name="mine", keep=(0.3,)),
    ]
    rows = compare(runs)
    line = next(csv.DictReader(io.StringIO(format_comparison(rows[1:], "csv"))))
    assert float(line["published ImageNet"]) == pytest.approx(0.317)
    assert float(line["vs published ImageNet"]) == pytest.approx(0.3 - 0.317)
    assert line["published ImageNet status"] == "verified"
    table = format_comparison(rows, "markdown")
    assert "| 31.7 | -1.7 |" in table
    assert "| 5.1† | +0.9† |" in table
    assert table.endswith("† not verified: recalled, or quoted by others")
    assert r"$5.1^\dagger$" in format_comparison(rows, "latex")
    assert "not verified" not in format_comparison([rows[2]], "table")
