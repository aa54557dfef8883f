"""Every block of code in the documentation: commands are of kinds that are tested, Python runs, YAML is a config."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from clipsift_app.includes import with_includes
from clipsift_app.run_cli import RunCLI
from helpers.program import REPOSITORY
from selection.recipe.parsed import ParsedRecipe
from selection.registry import SCORES, FeatureBlock

PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# What begins a line that does not start the program, and what runs it instead of test_docs.py.
ELSEWHERE = {
    "make ": "test_readme.py knows the targets, and runs the demo",
    "python examples/score_pictures.py ": "test_examples.py",
    "python -m venv ": "test_wheel.py makes one",
    "venv/bin/pip install clipsift-": "test_wheel.py installs the wheel",
    "sbatch --array ": "test_cluster_files.py runs the script; test_parts_program.py the verbs",
    "export NCCL_SOCKET_IFNAME=": "sets variables of libraries that only a cluster has",
}


def blocks(language: str) -> list[Any]:
    """(page and number, text) of every block of a language."""
    return [
        pytest.param(text, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, text in enumerate(re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL))
    ]


def test_every_block_is_of_a_language_that_is_tested() -> None:
    for page in PAGES:
        text = page.read_text()
        opened = re.findall(r"^```(\w*)$", text, re.MULTILINE)[::2]
        assert set(opened) <= {"bash", "python", "yaml", ""}, page.name
        plain = re.findall(r"```\n(.*?)```", re.sub(r"```\w+\n.*?```", "", text, flags=re.DOTALL), re.DOTALL)
        assert not re.search(r"^\s*(clipsift|python|srun|import) ", "\n".join(plain), re.MULTILINE), page.name


@pytest.mark.parametrize("text", blocks("bash"))
def test_every_command_is_of_a_kind_that_is_tested(text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not re.search(r"(^|[/\s])(clipsift(\.py)?|slurm\.sh)\s", line):
            assert line.startswith(tuple(ELSEWHERE)), line


@pytest.mark.parametrize("text", blocks("python"))
def test_every_block_of_python_runs(text: str, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.id.startswith("notebook-"):
        return  # test_notebook.py runs them in a row, and looks at what they make
    assert request.node.callspec.id == "extending-0"
    try:
        exec(compile(text, "extending.md", "exec"), {"__name__": "extending"})
        image = torch.tensor([[0.5, -2.0], [1.0, 0.0]])
        assert SCORES["my_score"](FeatureBlock(image, image), sharpness=3.0).tolist() == [6.0, 3.0]
    finally:
        SCORES.pop("my_score", None)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_block_of_yaml_is_a_config(text: str, tmp_path: Path) -> None:
    values = yaml.safe_load(text)
    if set(values) == {"steps"}:
        assert ParsedRecipe.parse(values["steps"]).steps
        return
    (tmp_path / "block.yaml").write_text(text)
    arguments = with_includes([f"--config={tmp_path / 'block.yaml'}"])
    config = RunCLI(["--pool=POOL", "--out=OUT", *arguments], trains=False).config.as_dict()
    for key, value in values.items():
        assert config[key] is not None, key
        if isinstance(value, dict) and "steps" in value:
            assert ParsedRecipe.parse(config[key]["steps"]).steps
