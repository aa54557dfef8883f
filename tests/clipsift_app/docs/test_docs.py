"""The documentation: what it says can be typed runs, what it refers to is there, its tables are what is computed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks.costs import tables
from clipsift_app.grid import is_grid
from clipsift_app.parsing import parse_run
from clipsift_app.program import run_verb
from clipsift_app.verbs import VERBS
from helpers.features import unit_array
from helpers.pictures import picture
from helpers.pools import write_pool
from helpers.program import REPOSITORY
from helpers.workspace import write_workspace
from selection.features.target_sets import target_sets

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
RUN_VERBS = ("reproduce", "select", "fit", "doctor")
NUM_COMMANDS = 25  # fewer mean that this file no longer finds them
WIDTH = 8

# What makes a run small, whatever its config says.
SMALL = ["--data.samples_seen=32", "--data.global_batch=16", "--data.workers=0", "--model.grad_checkpointing=false"]
SMALL += ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1", "--trainer.precision=32-true"]
SMALL += ["--evaluation.workers=0", "--evaluation.tasks=[imagenet1k]", "--model.model=tiny.json"]
# What a page names and this test makes, by its name here.
PLACES = {"configs/": f"{REPOSITORY}/configs/", "/data/": "data/", "POOL": "data/shards", "EVAL": "data/evalsets"}
PLACES |= {"FEATURES/metadata": "data/shards/metadata", "FEATURES": "features"}
PLACES |= {
    "imagenet*,VTAB": "imagenet1k,vtab/dtd",
    "--clusters 100000": "--clusters 4",
    "{model: ViT-L-14, pretrained: openai}": "{model: runs/mine/training/model}",
}
PLACES |= {
    f"--model {name} --pretrained openai": "--model runs/mine/training/model" for name in ("ViT-B-32", "ViT-L-14")
}


def commands() -> list[Any]:
    """(page and number, verb, arguments) of every line in a bash block that starts the program."""
    found = []
    for page in PAGES:
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)).replace("\\\n", " ")
        for line in blocks.splitlines():
            for name, here in PLACES.items():
                line = line.replace(name, here)
            words = shlex.split(line, comments=True)
            starts = [i for i, word in enumerate(words) if re.search(r"(^|/)(clipsift(\.py)?|slurm\.sh)$", word)]
            for at in starts:
                found.append(pytest.param(words[at + 1], words[at + 2 :], id=f"{page.stem}-{len(found)}"))
    return found


COMMANDS = commands()


def is_own(path: str) -> bool:
    return "://" not in path and not path.startswith("mailto:")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The places that the pages name: pools with metadata, evaluation sets, targets, a config."""
    folder = tmp_path_factory.mktemp("world")
    write_workspace(folder)
    rng = np.random.default_rng(0)
    for name in ("datacomp_small", "datacomp_medium", "shards"):
        write_pool(folder / "data" / name, {"00000000": 40})
    write_pool(folder / "data" / "good_shards", {"00000000": 40}, start=1000)
    for name in ("datacomp_small", "datacomp_medium", "shards"):
        metadata = folder / "data" / name / "metadata"
        metadata.mkdir()
        scores = rng.normal(size=40).astype(np.float32)
        columns = {"uid": [f"{number:032x}" for number in range(1, 41)], "clip_l14_similarity_score": scores}
        pq.write_table(pa.table(columns), metadata / "0.parquet")
        np.savez(metadata / "0.npz", l14_img=unit_array(rng, 40, WIDTH), l14_txt=unit_array(rng, 40, WIDTH))
    (folder / "runs/mine/training/model").mkdir(parents=True)
    (folder / "targets").mkdir()
    np.save(folder / "targets" / "imagenet1k_l14.npy", unit_array(rng, 5, WIDTH))
    for key in target_sets()["target24"]:
        train = folder / "data" / "trainsets" / f"wds_{key.replace('/', '-')}_train"
        train.mkdir(parents=True)
        (train / "one.jpg").write_bytes(picture(0))
    (folder / "eval").rename(folder / "data" / "evalsets")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {"eval": str(folder / "data/evalsets"), "out": "runs/mine"}
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def runs(world: Path) -> Path:
    """Finished runs by the names that the pages use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        for name in ("mine", "none"):
            more = [
                f"--out=runs/{name}",
                f"--name={name}",
                "--cache=cache",
                "--selection.teacher.train.samples_seen=32",
            ]
            assert run_verb("reproduce", ["--config=run.yaml", *SMALL, *more]) == 0
    for name, target in (("a", "mine"), ("b", "none")):
        (world / "runs" / name).symlink_to(world / "runs" / target)
    return world


def shrunk(verb: str, arguments: list[str], out: str) -> list[str]:
    """The arguments, in small, with an --out of its own."""
    if verb == "demo":  # with two, this process would start itself again
        return [*arguments, "--devices=1", f"--out={out}"]
    if verb not in RUN_VERBS:
        return arguments
    laptop = any("laptop.yaml" in word or word == "run.yaml" for word in arguments)
    laptop &= "--selection.teacher null" not in " ".join(arguments)
    training = ["--selection.teacher.train.samples_seen=32", "--selection.teacher.train.global_batch=16"]
    training += ["--selection.teacher.model=tiny.json", "--selection.embedding.workers=0"]
    return [*arguments, *SMALL, *(training if laptop else []), f"--out={out}"]


def test_the_pages_commands_are_found() -> None:
    assert len(COMMANDS) >= NUM_COMMANDS
    assert {command.values[0] for command in COMMANDS} <= set(VERBS)
    assert {"reproduce", "fit", "evaluate", "doctor", "report", "compare"} <= {c.values[0] for c in COMMANDS}


@pytest.mark.parametrize(("verb", "arguments"), COMMANDS)
def test_settings_of_every_run_command_are_right(
    world: Path, verb: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    if verb not in RUN_VERBS or is_grid(arguments):
        return  # the slow test runs them
    arguments = [word for word in arguments if word != "--all"]
    run = parse_run(shrunk(verb, arguments, "runs/parsed"), needs_eval=verb == "reproduce")
    assert run.out == world / "runs/parsed"


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "arguments"), COMMANDS)
def test_every_command_runs_in_small(
    runs: Path, verb: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(runs)
    if "--download" in arguments:
        pytest.skip("needs a network; tests/evaluation/data/test_download.py has a hub of its own")
    out = f"runs/{request.node.callspec.id}"
    if verb == "evaluate" and "--run" not in arguments:
        arguments = [*arguments, f"--out={out}"]
    more = ["--workers=0", "--trainer.accelerator=cpu"] if verb == "evaluate" else []
    assert run_verb(verb, [*shrunk(verb, arguments, out), *more]) == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_anchors_resolve(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([\w-]+))?\)", page.read_text()):
        if not is_own(path):
            continue
        target = page.parent / path if path else page
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_navigation_and_every_example_and_benchmark_exists() -> None:
    navigation = (REPOSITORY / "mkdocs.yml").read_text()
    for page in (REPOSITORY / "docs").glob("*.md"):
        assert f": {page.name}" in navigation
    for page in PAGES:
        for name in re.findall(r"\b((?:examples|benchmarks|tests)/[\w/]+\.(?:py|md))", page.read_text()):
            assert (REPOSITORY / name).is_file(), (page.name, name)


def test_the_tables_of_costs_are_what_the_program_prints() -> None:
    text = (REPOSITORY / "docs" / "scale.md").read_text()
    for table in tables():
        assert "\n".join(table) in text


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
