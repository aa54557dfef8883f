"""The pages in a real browser: no overflow on a phone or a desk, in light and dark, and nothing to complain about."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipsift_app.published import published
from clipsift_app.report import build_report
from clipsift_app.report.comparison import build_comparison_page
from helpers.fake_run import NUM_TASKS, make_index, make_run

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

# Loads a page in frames of the widths asked for and writes down what it measures. Elements that scroll on their own
# (wide tables) may be wider than the page; nothing else may.
PROBE = """<!doctype html><body><pre id="result"></pre><script>
const widths = [390, 1280], found = [];
window.onmessage = event => found.push({message: event.data});
function measure(frame) {
  const page = frame.contentDocument, edge = page.documentElement.clientWidth;
  const inScroll = element => element.closest(".scroll, pre");
  const outside = [...page.body.querySelectorAll("*")].filter(
    element => !inScroll(element) && element.getBoundingClientRect().right > edge + 1);
  return {
    width: edge,
    overflow: page.documentElement.scrollWidth - edge,
    outside: outside.map(element => element.outerHTML.slice(0, 80)),
    empty: [...page.querySelectorAll("section, figure, .band")].filter(
      element => element.getBoundingClientRect().height < 40).length,
    broken: [...page.images].filter(image => image.complete && !image.naturalWidth).length,
    text: page.body.innerText.includes("<scr" + "ipt>alert(1)</scr" + "ipt>"),
    paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
  };
}
Promise.all(widths.map(width => new Promise(done => {
  const frame = document.createElement("iframe");
  frame.style = `width: ${width}px; height: 900px; border: 0`;
  frame.onload = () => done(frame);
  frame.src = "PAGE";
  document.body.append(frame);
}))).then(frames => { document.getElementById("result").textContent = JSON.stringify(frames.map(measure)); });
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder served on this machine, and its address; a frame's content can only be measured over http."""
    folder = tmp_path_factory.mktemp("site")
    handler = functools.partial(_QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pages(site: tuple[Path, str]) -> list[str]:
    """A report and a comparison, with long names and many tasks; their addresses below the site."""
    folder, index = site[0], make_index()
    truth = index.write_truth(folder / "truth.parquet")
    tasks = tuple(
        (f"vtab/task_{number}", f"A task with quite a long name {number}", 0.1) for number in range(NUM_TASKS)
    )
    runs = [make_run(folder / f"none-{seed}", index, name="no_filter", keep=(), seed=seed) for seed in range(2)]
    for seed in range(2):
        name = "s_cliploss_then_normsim_inf_with_a_target_of_many_images"
        runs.append(make_run(folder / f"two-{seed}", index, name=name, seed=seed, tasks=tasks))
    start = {"time": "2026-01-02T03:04:05+00:00", "processes": 8, "device": "a GPU of some make", "commit": "0" * 40}
    start |= {"command": "clipsift reproduce --config " + "/a/long/path" * 9, "versions": {"torch": "9.9.9"}}
    (runs[-1] / "provenance.json").write_text(json.dumps([start]))
    build_report(runs[-1], index, truth, published("medium_s_cliploss"), baseline=runs[0])
    build_comparison_page(runs, folder / "compared", index, truth)
    return ["two-1/report/index.html", "compared/index.html"]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_pages_fit_and_are_whole(site: tuple[Path, str], pages: list[str], dark: bool, tmp_path: Path) -> None:
    for page in pages:
        (site[0] / "probe.html").write_text(PROBE.replace("PAGE", page))
        dom, log = _browse(f"{site[1]}/probe.html", dark, tmp_path / "profile")
        match = re.search(r'<pre id="result">(.+?)</pre>', dom)
        assert match, log
        for frame in json.loads(match.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")):
            assert frame["overflow"] == 0, (page, frame)
            assert frame["outside"] == [], (page, frame)
            assert (frame["empty"], frame["broken"]) == (0, 0), (page, frame)
            assert frame["text"], "the caption is to be read as it was written"
            assert frame["paper"] == ("rgb(22, 24, 27)" if dark else "rgb(252, 251, 249)")
        assert "CONSOLE" not in log, log


def _browse(address: str, dark: bool, profile: Path) -> tuple[str, str]:
    """The document after loading, and the browser's log with what pages wrote to the console."""
    assert CHROMIUM is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    options += [f"--user-data-dir={profile}", f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command = [CHROMIUM, *options, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr
