"""The wheel alone, outside any checkout: it holds only our names, and the program runs from it in any folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from helpers.program import REPOSITORY
from test_packaging import PRODUCT

pytestmark = pytest.mark.slow

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "clipsift.py", "configs", *PRODUCT)
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, since a build leaves files beside them."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(REPOSITORY / name, copy / name)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=copy, capture_output=True, check=True, timeout=300)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel; the libraries are this one's, without its editable clipsift."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    # A .pth file adds a folder to the path without reading the .pth files in it, such as that of an editable install.
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, capture_output=True, check=True, timeout=300)
    return folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def run(environment: Path, folder: Path, *words: str) -> str:
    """What a program of the environment prints; it must end with status 0."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, env=inherited, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_name_but_ours_is_installed(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    top = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top == {"clipsift.py", *PRODUCT}
    packaged = {name.removeprefix("clipsift_app/configs/") for name in names if "app/configs/" in name}
    files = {path for path in (REPOSITORY / "configs").rglob("*") if path.is_file()}
    assert packaged == {str(path.relative_to(REPOSITORY / "configs")) for path in files}


def test_the_program_is_the_wheels(environment: Path, elsewhere: Path) -> None:
    names = ("clipsift", *PRODUCT)
    code = f"from importlib.util import find_spec; print(*(find_spec(name).origin for name in {names}), sep='\\n')"
    places = run(environment, elsewhere, "python", "-c", code).splitlines()
    assert len(places) == len(names)
    assert all(place.startswith(str(environment)) for place in places)
    printed = run(environment, elsewhere, "clipsift", "--version")
    assert re.fullmatch(r"clipsift \S+, commit unknown \(no checkout\), torch \S+, device .+\n", printed)


@pytest.mark.skipif(shutil.which("cc") is None, reason="the compiled resize is left out without a C compiler")
def test_the_compiled_resize_is_found_where_it_is_imported(environment: Path, elsewhere: Path) -> None:
    run(environment, elsewhere, "python", "-c", "import training.loading._resize as kernel; kernel.resize")


def test_configs_travel(environment: Path, elsewhere: Path) -> None:
    listed = {line.split()[0] for line in run(environment, elsewhere, "clipsift", "configs").splitlines()}
    assert listed == {
        str(path.relative_to(REPOSITORY / "configs").with_suffix(""))
        for path in (REPOSITORY / "configs").rglob("*.yaml")
    }
    printed = run(environment, elsewhere, "clipsift", "configs", "scale/small")
    assert printed == (REPOSITORY / "configs/scale/small.yaml").read_text()


def test_demo_doctor_and_select_run_anywhere(environment: Path, elsewhere: Path) -> None:
    assert "s_cliploss_normsim" in run(environment, elsewhere, "clipsift", "demo", "--size", "small")
    assert (elsewhere / "demo/index.html").is_file()
    data = "demo/seed0/data"
    pool, places = f"--pool={data}/pool", [f"--trusted={data}/trusted", f"--eval={data}/eval"]
    checked = ["--config=demo/base", "--config=configs/demo/s_cliploss.yaml", pool, *places, "--out=new"]
    options = ["--evaluation.tasks=[imagenet1k]", "--trainer.accelerator=cpu"]
    assert "settings" in run(environment, elsewhere, "clipsift", "doctor", *checked, *options)
    run(environment, elsewhere, "clipsift", "select", "--config=recipe/random", pool, "--out=selected")
    assert (elsewhere / "selected/selection/subset.npy").is_file()
