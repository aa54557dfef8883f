"""The program's start: its table of verbs, its version, and whose packages it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from clipsift import find_shadow, main
from clipsift_app.verbs import VERBS
from helpers.program import REPOSITORY


def python(code: str, folder: Path, path: str = str(REPOSITORY)) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter that starts in ``folder``."""
    environment = os.environ | {"PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_verb_is_a_module_and_every_module_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem for path in (REPOSITORY / "clipsift_app/verbs").glob("*.py")} - {"__init__"}
    assert modules == set(VERBS)
    main(["--help"])
    printed = re.findall(r"^  (\w+) +(.+)$", capsys.readouterr().out, re.MULTILINE)
    assert dict(printed) == VERBS


def test_the_documentation_lists_the_verbs() -> None:
    rows = re.findall(
        r"^\| (`[a-z]+`(?:, `[a-z]+`)*) \| .+ \|$", (REPOSITORY / "docs/index.md").read_text(), re.MULTILINE
    )
    named = [verb for row in rows for verb in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(VERBS)


def test_what_needs_no_torch_starts_without_it(tmp_path: Path) -> None:
    code = """
import sys, clipsift
for words in (["--help"], ["configs"], ["configs", "scale/small"], ["slect"]):
    try:
        clipsift.main(words)
    except SystemExit as error:
        print(error.code)
print(sorted({"torch", "lightning", "open_clip", "numpy"} & set(sys.modules)))
"""
    done = python(code, tmp_path)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[-1]) == (0, "[]"), done.stderr
    assert "clipsift: error: no verb is named 'slect'; there are reproduce, select, score, fit" in done.stdout


def test_the_version_names_commit_torch_and_device(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    printed = capsys.readouterr().out
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    assert re.fullmatch(r"clipsift \S+, commit .+, torch \S+, device .+\n", printed)
    assert f"torch {torch.__version__}" in printed
    assert f"commit {head or 'unknown'}" in printed


@pytest.mark.parametrize("kind", ["module", "package", "folder"])
def test_a_package_of_somebody_else_is_named(tmp_path: Path, kind: str) -> None:
    place = tmp_path / {"module": "selection.py", "package": "selection/__init__.py", "folder": "selection/x"}[kind]
    place.parent.mkdir(exist_ok=True)
    place.write_text("raise SystemExit('it was imported')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import clipsift; clipsift.main(['--help'])"
    done = python(code, tmp_path)
    if kind == "folder":  # without an __init__.py ours wins wherever it is on the path
        assert (done.returncode, done.stderr) == (0, "")
        return
    assert done.returncode == 1
    assert done.stderr.startswith(f"clipsift: error: the package selection is imported from {place}, not from")
    assert done.stderr.count("\n") == 1


def test_no_package_of_ours_is_hidden_here() -> None:
    assert find_shadow() is None
    spec = find_spec("selection")
    assert spec is not None
    assert spec.origin == str(REPOSITORY / "selection/__init__.py")
