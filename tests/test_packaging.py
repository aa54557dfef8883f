"""What is installed, by pyproject.toml alone; tests/test_wheel.py builds and installs it."""

from __future__ import annotations

import tomllib

from helpers.program import REPOSITORY

PRODUCT = ("clipsift_app", "clipsift_common", "evaluation", "selection", "training")
SETUPTOOLS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_every_package_of_the_product_is_installed_and_nothing_else() -> None:
    folders = [path.parent for name in PRODUCT for path in (REPOSITORY / name).rglob("__init__.py")]
    packages = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    assert set(SETUPTOOLS["packages"]) == packages | {"clipsift_app.configs"}
    assert SETUPTOOLS["py-modules"] == ["clipsift"]


def test_every_python_folder_of_the_product_is_a_package() -> None:
    for name in PRODUCT:
        for path in (REPOSITORY / name).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file(), path


def test_every_data_file_is_installed() -> None:
    data = SETUPTOOLS["package-data"]
    for package, folder in (*((name, name) for name in PRODUCT), ("clipsift_app.configs", "configs")):
        root = REPOSITORY / folder
        installed = {path for pattern in data.get(package, []) for path in root.glob(pattern)}
        files = {path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
        missing = {path for path in files - installed if path.suffix not in (".py", ".c", ".so")}
        assert missing == set()
