"""The README's commands: the targets exist, the verbs and files that it names exist, and the two first ones run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from clipsift_app.verbs import VERBS
from helpers.program import REPOSITORY

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text() for page in PAGES}


def blocks(text: str) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))


def test_the_first_two_commands_are_the_ones_that_ci_runs() -> None:
    first = re.findall(r"```bash\n(.*?)```", TEXTS["README.md"], re.DOTALL)[0].split("\n")
    assert first[:2] == ["make demo", "make test"]
    script = (REPOSITORY / ".ci" / "run").read_text()
    assert "make demo" in script
    assert "make test" in script


def test_every_make_target_named_exists_and_says_what_it_does() -> None:
    described = set(re.findall(r"^([a-z]+):.*## \S", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for name, text in TEXTS.items():
        named = set(re.findall(r"`make ([a-z]+)", text)) | set(
            re.findall(r"^make ([a-z]+)", blocks(text), re.MULTILINE)
        )
        assert named <= described, name


@pytest.mark.parametrize("name", TEXTS)
def test_verbs_configs_and_links_exist(name: str) -> None:
    text = TEXTS[name]
    for verb in re.findall(r"clipsift(?:\.py)? ([a-z]+) --", blocks(text)):
        assert verb in VERBS
    for path in re.findall(r"configs/[\w/]+\.(?:yaml|json)", text):
        assert (REPOSITORY / path).is_file(), path
    folder = next(page for page in PAGES if page.name == name).parent
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert (folder / link).exists(), link


@pytest.mark.slow
def test_the_demo_runs_from_the_makefile(tmp_path: Path) -> None:
    command = ["make", "demo", f"ARGS=--size small --out {tmp_path / 'demo'}"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr
    assert "s_cliploss_normsim" in result.stdout
    assert (tmp_path / "demo" / "index.html").is_file()
