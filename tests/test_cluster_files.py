"""The files for clusters parse, and their commands are commands of the program."""

from __future__ import annotations

import os
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipsift_app.verbs import VERBS
from helpers.program import REPOSITORY

FOLDER = REPOSITORY / "examples" / "cluster"
MANIFESTS = sorted(FOLDER.glob("*.yaml"))


def pods(value: Any) -> list[dict[str, Any]]:
    """Every pod's ``spec`` in a manifest."""
    if isinstance(value, list):
        return [pod for part in value for pod in pods(part)]
    if not isinstance(value, dict):
        return []
    return [value] if "containers" in value else [pod for part in value.values() for pod in pods(part)]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_s_commands_are_the_program_s(path: Path) -> None:
    found = pods(yaml.safe_load(path.read_text()))
    assert found
    for pod in found:
        (container,) = pod["containers"]
        words = [*container.get("command", ["clipsift"]), *container["args"]]
        verb = words[words.index("clipsift") + 1]
        assert verb in VERBS
        for word in words:
            if word.startswith("--config="):
                assert (REPOSITORY / word.removeprefix("--config=")).is_file()
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert "/dev/shm" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_what_the_dockerfile_copies_and_installs_is_there() -> None:
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    assert steps[0][0] == "FROM"
    assert {word for word, _ in steps} <= {"FROM", "RUN", "COPY", "ENV", "WORKDIR", "ENTRYPOINT"}
    dependencies, program = (shlex.split(rest) for word, rest in steps if word == "RUN" and "pip" in rest)
    copies = [shlex.split(rest) for word, rest in steps if word == "COPY"]
    copied = {source for *sources, _ in copies for source in sources}
    assert dependencies[dependencies.index("--requirement") + 1] in copied
    assert program[-1] == "."
    assert all((REPOSITORY / source).exists() for source in copied)
    for *sources, place in copies:  # Docker copies what is in a folder, not the folder
        assert not any((REPOSITORY / source).is_dir() for source in sources) or place == f"./{sources[0]}"
    with open(REPOSITORY / "pyproject.toml", "rb") as handle:
        project = tomllib.load(handle)
    built = project["tool"]["setuptools"]
    needed = {package.partition(".")[0] for package in built["packages"]} | set(built["package-dir"].values())
    needed |= {f"{module}.py" for module in built["py-modules"]} | {"pyproject.toml", project["project"]["readme"]}
    assert needed | set(project["project"]["license-files"]) <= copied
    assert yaml.safe_load(dict(steps)["ENTRYPOINT"]) == ["clipsift"]


def test_the_scripts_are_bash_and_give_the_program_its_arguments(tmp_path: Path) -> None:
    script = REPOSITORY / "configs" / "trainer" / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o700)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(script), "fit", "--pool", "a pool", "--out=x"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    program = said[said.index("clipsift") :]
    assert program == ["clipsift", "fit", "--config", "configs/trainer/slurm.yaml", "--pool", "a pool", "--out=x"]
    assert "--wait=60" in said


def test_parts_are_counted_from_one_by_the_array_and_by_the_indexed_job(tmp_path: Path) -> None:
    program = tmp_path / "clipsift"
    program.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    program.chmod(0o700)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def said(command: list[str], **variables: str) -> list[str]:
        done = subprocess.run(command, env=path | variables, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    script = str(REPOSITORY / "configs" / "trainer" / "parts.sh")
    task = {"SLURM_ARRAY_TASK_ID": "17", "SLURM_CPUS_PER_TASK": "12"}
    words = said(["bash", script, "200", "score", "--pool", "a pool"], **task)
    assert words == ["score", "--pool", "a pool", "--part", "17/200"]
    (pod,) = pods(yaml.safe_load((FOLDER / "parts_job.yaml").read_text()))
    container = pod["containers"][0]
    words = said([*container["command"], *container["args"]], JOB_COMPLETION_INDEX="199")
    assert words == [*container["args"], "--part", "200/200"]
