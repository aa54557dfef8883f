"""The page of a run: what is on it, what is left out, and that nothing from a pool can act in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsift_app.published import Number, Publication
from clipsift_app.report import build_report
from clipsift_common.errors import ClipsiftError
from helpers.fake_run import NUM_TASKS, TASKS, FakeIndex, make_index, make_run, write_summary
from selection.subset import Subset

ALL_SECTIONS = {
    "tasks",
    "published",
    "selection",
    "kinds",
    "pictures",
    "captions",
    "agreement",
    "training",
    "losses",
    "provenance",
}
PUBLISHED = [
    Publication(
        row="two_steps",
        source="a <paper>",
        pool="110 M",
        method="two steps",
        size="22 M",
        numbers={"ImageNet": Number(0.29, "recalled"), "Average": Number(0.35, "verified")},
        known="",
        note="A note.",
    )
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, index: FakeIndex) -> Path:
    """The page of a complete run."""
    folder = tmp_path_factory.mktemp("report")
    return build_report(make_run(folder / "run", index), index, index.write_truth(folder / "truth.parquet"), PUBLISHED)


def without(run: Path, *patterns: str) -> Path:
    """``run`` without some of its files (plots take most of the time)."""
    for pattern in patterns:
        for path in list(run.glob(pattern)):
            path.unlink()
    return run


NO_PLOTS = ("training/metrics.csv", "selection/scores/*")


def sections(page: Path) -> set[str]:
    return set(re.findall(r'<section id="(\w+)"', page.read_text()))


def test_page_has_every_section_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    assert page.parts[-3:] == ("run", "report", "index.html")
    assert sections(page) == ALL_SECTIONS
    assert {source[:5] for source in re.findall(r'(?:src|href)="([^"#][^"]*)"', text)} == {"data:"}
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"url\((?!#)", text)
    assert text.count('<img src="data:image/jpeg') == 2 * 5 * 6  # columns, bands, pictures


def test_same_run_gives_the_same_bytes(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), "training/metrics.csv")
    first = build_report(run, index).read_bytes()
    assert build_report(run, index).read_bytes() == first


def test_captions_and_names_show_as_text(tmp_path: Path, index: FakeIndex) -> None:
    run = make_run(tmp_path / "run", index, name="<img src=x onerror=alert(2)> $x$", tasks=(("t", "<b>$T", 0.1),))
    report = json.loads((run / "selection" / "data_report.json").read_text())
    report["examples"]["broken_image"][0]["shard"] = "bad\udcff</td>"
    (run / "selection" / "data_report.json").write_text(json.dumps(report))
    text = build_report(run, index).read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;img src=x onerror=alert(2)&gt; $x$" in text
    assert "&lt;b&gt;$T" in text
    assert "bad?&lt;/td&gt;" in text
    assert "00000007&lt;b&gt;" in text
    assert not re.search(r"<script|onerror=alert\(2\)>|<b>|<i>truncated", text)


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("evaluation/summary.json", {"tasks", "published"}),
        ("training/metrics.csv", {"training"}),
        ("selection/data_report.json", {"losses"}),
        ("selection/scores/*.parquet", {"pictures", "captions", "agreement"}),
        ("selection/subset.npy", {"kinds", "captions"}),
    ],
)
def test_section_without_its_file_is_left_out(tmp_path: Path, index: FakeIndex, missing: str, gone: set[str]) -> None:
    run = without(make_run(tmp_path / "run", index), missing)
    page = build_report(run, index, index.write_truth(tmp_path / "truth.parquet"), PUBLISHED)
    assert sections(page) == ALL_SECTIONS - gone


def test_configuration_alone_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("name: planned\n")
    assert sections(build_report(tmp_path)) == {"provenance"}


def test_no_filter_run(tmp_path: Path, index: FakeIndex) -> None:
    page = build_report(make_run(tmp_path / "run", index, keep=()), index)
    assert sections(page) == {"tasks", "training", "losses", "provenance"}
    assert "Kept 200 of 200 pairs; trained on" in page.read_text()


def test_without_an_index_there_are_no_pictures(tmp_path: Path, index: FakeIndex) -> None:
    assert {"pictures", "captions"} & sections(build_report(make_run(tmp_path / "run", index))) == set()


def test_pictures_of_another_pool_or_broken_ones_are_left_out(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), "training/metrics.csv", "evaluation/*")
    assert {"pictures", "captions"} & sections(build_report(run, make_index(seed=1))) == set()
    broken = FakeIndex(index.uids, [type(s)(s.uid, s.shard, s.key, b"no image", s.caption) for s in index.samples], [])
    page = build_report(run, broken)
    assert "pictures" not in sections(page)
    assert "Shorter side" not in page.read_text()


def test_average_is_shown_only_over_all_tasks(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), *NO_PLOTS)
    text = build_report(run).read_text()
    assert f"{len(TASKS)}/{NUM_TASKS}" in text
    assert "no average: tasks are missing" in text
    assert "vtab/missing_32" in text
    assert ">Average<" not in text
    write_summary(run / "evaluation", [(f"task{i}", f"Task {i}", 0.01 * i, None) for i in range(NUM_TASKS)])
    text = build_report(run).read_text()
    assert "18.5%" in text  # mean of 0.00, 0.01 ... 0.37
    assert ">Average<" in text
    assert f"/{NUM_TASKS}<" not in text


def test_published_numbers_say_what_they_are(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), *NO_PLOTS)
    text = build_report(run, publications=PUBLISHED).read_text()
    assert "a &lt;paper&gt;. A note." in text
    found = dict(re.findall(r'<th scope="row">(ImageNet|Average) (.*?)</tr>', text))
    assert '<span class="doubt">recalled</span>' in found["ImageNet"]
    assert "+1.0" in found["ImageNet"]  # 30.0 % against 29.0 %
    assert "doubt" not in found["Average"]
    assert "verified" in found["Average"]
    assert text.count('class="doubtful"') == 1


def test_published_numbers_are_found_by_the_name_or_the_setting(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), *NO_PLOTS)
    assert "published" not in sections(build_report(run))
    (run / "config.yaml").write_text("name: mine\npublished: medium_s_cliploss\n")
    text = build_report(run).read_text()
    assert "27.9%" in text
    assert "s-CLIPLoss 30 %, pool of 110 M" in text
    (run / "config.yaml").write_text("name: medium_s_cliploss\n")
    assert "27.9%" in build_report(run).read_text()


def test_a_baseline_stands_beside_the_run(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index, accuracy=0.3), *NO_PLOTS)
    other = make_run(tmp_path / "other", index, name="plain", keep=(), accuracy=0.25, tasks=TASKS[:2])
    text = build_report(run, baseline=other).read_text()
    assert "Against plain: +5.0 points on the mean of 2 tasks, better on 2 of them." in text
    assert re.search(r"<text[^>]*>plain</text>", text)
    (other / "evaluation" / "summary.json").unlink()
    assert "No task is scored in both this run and plain." in build_report(run, baseline=other).read_text()


def test_pairs_at_chosen_quantiles_say_which_and_whether_they_were_kept(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index, keep=(0.4,)), "training/metrics.csv", "evaluation/*")
    text = build_report(run, index, quantiles=(0, 0.5, 1)).read_text()
    band = text[text.index("Across the pool") :]
    assert re.findall(r"· quantile ([\d.]+), (kept|dropped)", band)[:3] == [
        ("1", "kept"),
        ("0.5", "dropped"),
        ("0", "dropped"),
    ]
    with pytest.raises(ClipsiftError, match="quantiles"):
        build_report(run, index, quantiles=(2,))


def test_starts_and_versions_are_those_of_the_run(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), *NO_PLOTS)
    start = {"command": "clipsift fit --name '<b>'", "time": "2026-01-02T03:04:05+00:00", "processes": 8}
    start |= {"device": "a GPU", "commit": "abcdef0123456+", "versions": {"torch": "9.9.9"}}
    (run / "provenance.json").write_text(json.dumps([start]))
    text = build_report(run).read_text()
    assert "9.9.9" in text
    assert "abcdef0123+" in text
    assert "clipsift fit --name &#39;&lt;b&gt;&#39;" in text


def test_plots_are_saved_as_png(page: Path) -> None:
    plots = {path.stem: Image.open(path).size for path in page.parent.glob("*.png")}
    assert len(plots) == page.read_text().count('<svg class="plot"')
    assert {"kinds", "scores_score_0", "scores_score_1", "tasks_Main_metric", "training_loss"} <= set(plots)
    assert min(min(size) for size in plots.values()) > 100


def test_plots_take_the_colours_of_the_page(page: Path) -> None:
    plots = re.findall(r'<svg class="plot".*?</svg>', page.read_text(), re.DOTALL)
    assert plots
    assert all("var(--" in plot and "<style" not in plot for plot in plots)
    assert not any(re.search(r"(?:fill|stroke): #", plot) for plot in plots)


def test_files_that_do_not_belong_together_are_told(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), *NO_PLOTS)
    assert 'class="warning"' not in build_report(run).read_text()
    Subset(index.uids[:7]).save(run / "selection" / "subset.npy")
    assert "trained on another subset" in build_report(run).read_text()
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    (run / "evaluation" / "summary.json").write_text(json.dumps(summary | {"weights": "0ther"}))
    assert "evaluation is of other weights" in build_report(run).read_text()


def test_set_operations_are_steps_of_the_funnel(tmp_path: Path, index: FakeIndex) -> None:
    run = without(make_run(tmp_path / "run", index), *NO_PLOTS)
    about = json.loads((run / "selection" / "subset.json").read_text())
    about["operations"] = [{"operation": "union", "file": "/data/dfn.npy", "size": 900, "num_kept": 900}]
    (run / "selection" / "subset.json").write_text(json.dumps(about))
    text = build_report(run).read_text()
    assert "<strong>union</strong> with dfn.npy" in text
    assert "450.0%" in text
    assert '--share: 1"' in text  # the bar ends where the pool does


@pytest.mark.parametrize("scores", [np.nan, 3.0])
def test_column_without_spread(tmp_path: Path, index: FakeIndex, scores: float) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    run = without(make_run(tmp_path / "run", index), "training/metrics.csv", "evaluation/*")
    for path in (run / "selection" / "scores").glob("*.parquet"):
        table = pq.read_table(path)
        column = pa.array(np.full(table.num_rows, scores, np.float32))
        pq.write_table(table.set_column(table.column_names.index("score_0"), "score_0", column), path)
    assert "selection" in sections(build_report(run, index))


@pytest.mark.parametrize(
    ("name", "content"),
    [("selection/subset.json", "{"), ("config.yaml", "a: [1"), ("selection/scores/00000000.parquet", "no parquet")],
)
def test_damaged_file_is_named(tmp_path: Path, index: FakeIndex, name: str, content: str) -> None:
    run = make_run(tmp_path / "run", index)
    (run / name).write_text(content)
    with pytest.raises(ClipsiftError, match=re.escape(Path(name).name)) as caught:
        build_report(run)
    assert "\n" not in str(caught.value)


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClipsiftError, match="not a run directory"):
        build_report(tmp_path)
