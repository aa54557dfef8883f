"""The shape of the code: which file may import which, and how large files and folders are."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.program import REPOSITORY

# From the ground up; a package may import those on lower floors, and on its own floor itself alone.
FLOORS = {"clipsift_common": 0, "selection": 1, "training": 2, "evaluation": 2, "clipsift_app": 3, "clipsift": 4}
# Rooms of selection that a room may import; what is in no room is on top of all of them.
ROOMS = {
    "kernels": set(),
    "scores": {"kernels", "features"},
    "shuffle": {"kernels"},
    "methods": {"kernels", "scores", "shuffle"},
    "samples": set(),
    "pool": {"samples"},
    "features": {"kernels", "samples", "pool"},
    "scoring": {"kernels", "scores", "features"},
    "recipe": {"kernels", "scores", "shuffle", "methods", "pool", "features", "scoring"},
}
GROUND = {"uids", "subset", "subset_files", "options", "registry"}  # files of selection that its rooms may import
MEDIAN_LINES, MOST_MODULES = 110, 20


def product_files(root: Path = REPOSITORY) -> list[Path]:
    packages = [path for name in FLOORS for path in (root / name).rglob("*.py")]
    return [*([root / "clipsift.py"] if (root / "clipsift.py").exists() else []), *packages]


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path = REPOSITORY) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports, wherever in its file it does so."""
    files = {module_of(path, root): path for path in product_files(root)}
    return {name: set(_imported(path, files)) for name, path in files.items()}


def _imported(path: Path, files: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found = full if full in files else node.module
                if found in files:
                    yield found


def find_circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Names that import each other in a circle; none when there is no circle."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def climbing(arrows: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """(importing, imported) where the second is not on a lower floor and not of the same package."""
    return [
        (name, other)
        for name, others in arrows.items()
        for other in others
        if name.split(".")[0] != other.split(".")[0] and FLOORS[other.split(".")[0]] >= FLOORS[name.split(".")[0]]
    ]


def leaving_rooms(arrows: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """(importing, imported) in selection where a room imports one that it may not."""
    found = []
    for name, others in arrows.items():
        room = name.split(".")[1] if name.startswith("selection.") else ""
        for other in others if room in ROOMS else ():
            place = other.split(".")[1] if other.startswith("selection.") else ""
            if place and place != room and place not in ROOMS[room] | GROUND:
                found.append((name, other))
    return found


def test_no_file_imports_itself_through_others() -> None:
    arrows = imports()
    assert len(arrows) > 150
    assert find_circle(arrows) == []


def test_packages_import_lower_floors_only() -> None:
    assert climbing(imports()) == []


def test_rooms_of_selection_import_rooms_below_them() -> None:
    assert find_circle({room: set(below) for room, below in ROOMS.items()}) == []
    assert leaving_rooms(imports()) == []


def test_registries_know_no_plugin() -> None:
    arrows = imports()
    plugins = ("selection.scores", "selection.methods", "evaluation.kinds")
    for registry in ("selection.registry", "evaluation.kinds.base"):
        assert not [name for name in arrows[registry] if name.startswith(plugins)]


def test_files_and_folders_stay_small() -> None:
    files = product_files()
    assert statistics.median(len(path.read_text().splitlines()) for path in files) <= MEDIAN_LINES
    for folder in {path.parent for path in files} - {REPOSITORY}:
        assert len(list(folder.glob("*.py"))) <= MOST_MODULES, folder


@pytest.mark.parametrize(
    ("files", "check"),
    [
        (
            {"selection/a.py": "def f():\n    import selection.b\n", "selection/b.py": "import selection.a\n"},
            find_circle,
        ),
        ({"training/a.py": "from evaluation import b\n", "evaluation/b.py": ""}, climbing),
        ({"clipsift_common/a.py": "import selection.b\n", "selection/b.py": ""}, climbing),
        ({"selection/kernels/a.py": "from selection.scores import b\n", "selection/scores/b.py": ""}, leaving_rooms),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, files: dict[str, str], check: object) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert callable(check)
    assert check(imports(tmp_path))


# Where code asks for rank 0 by itself: the rule itself, a log.
ASKS_FOR_RANK_ZERO = {"clipsift_common.distributed", "training.data"}


def asking_for_rank_zero(root: Path = REPOSITORY) -> set[str]:
    """Modules with a branch on ``rank() == 0``: a collective call in it waits for ranks that never come."""
    found = set()
    for path in product_files(root):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.If | ast.IfExp) and "rank()" in ast.unparse(node.test).replace("not ", "").split():
                found.add(module_of(path, root))
    return found


def test_what_rank_zero_does_alone_goes_through_on_rank_zero() -> None:
    assert asking_for_rank_zero() == ASKS_FOR_RANK_ZERO


@pytest.mark.parametrize(
    "text", ["if rank() == 0:\n    f()", "x = f() if not rank() else 0", "if a and 0 == rank():\n    f()"]
)
def test_a_branch_on_rank_zero_is_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training/a.py").write_text(text)
    assert asking_for_rank_zero(tmp_path) == {"training.a"}


def test_importing_the_library_imports_no_library() -> None:
    code = "import sys, clipsift, selection, training, evaluation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"torch", "numpy", "lightning", "open_clip", "matplotlib", "webdataset"} & loaded
    assert "clipsift" in loaded
