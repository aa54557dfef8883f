"""Pages of docs that list what is elsewhere: they say what is there, all of it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import open_clip_train.params

from clipsift_app.reference import reference

REPOSITORY = Path(__file__).resolve().parents[3]
PACKAGES = ("clipsift_common", "selection", "training", "evaluation", "clipsift_app")


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text(encoding="utf-8")


def test_the_settings_are_those_of_the_code() -> None:
    assert page("settings.md") == reference(), "python -m clipsift_app.reference > docs/settings.md"


def test_messages_under_troubleshooting_are_ones_that_the_code_has() -> None:
    files = [REPOSITORY / "clipsift.py", *(path for name in PACKAGES for path in (REPOSITORY / name).rglob("*.py"))]
    # Literals that follow one another are one message; what stands in braces is filled in.
    source = re.sub(r'"\s*f?"', "", " ".join(" ".join(path.read_text().split()) for path in files))
    messages = re.findall(r"^\* `([^`]+)`", page("troubleshooting.md"), re.MULTILINE)
    assert len(messages) > 15
    for message in messages:
        pieces = [piece.strip() for piece in re.split(r"\.\.\.|\b[A-Z]+\b", message)]
        for piece in pieces:
            assert piece in source, (message, piece)


def test_every_flag_of_open_clips_training_has_a_row() -> None:
    flags = set(re.findall(r'"(--[a-z0-9-]+)"', inspect.getsource(open_clip_train.params)))
    assert len(flags) > 80
    named = set(re.findall(r"--[a-z0-9-]+\*?", page("migration.md")))
    beginnings = tuple(name.rstrip("*") for name in named if name.endswith("*"))
    assert {flag for flag in flags if flag not in named and not flag.startswith(beginnings)} == set()


def test_no_line_of_markdown_is_wider_than_the_code() -> None:
    pages = [path for path in REPOSITORY.rglob("*.md") if not {".venv", "build", "site"} & set(path.parts)]
    assert len(pages) > 20
    wide = [
        (path.name, number)
        for path in pages
        for number, line in enumerate(path.open(encoding="utf-8"), 1)
        if len(line) > 121
    ]
    assert wide == []
