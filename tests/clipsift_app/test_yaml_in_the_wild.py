"""Config files that hold something else than settings are refused at once, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsift_app.includes import with_includes
from clipsift_app.parsing import parse_run
from clipsift_app.verb_settings import parse_settings
from clipsift_app.verbs import evaluate
from clipsift_common.errors import ClipsiftError
from helpers.pools import write_pool


def aliases(levels: int, mapping: bool) -> str:
    """Every level has nine times the one before it."""
    lines = ["a0: &a0 [x]"]
    for level in range(1, levels):
        nine = [f"*a{level - 1}"] * 9
        value = "{" + ", ".join(f"k{n}: {a}" for n, a in enumerate(nine)) + "}" if mapping else f"[{', '.join(nine)}]"
        lines.append(f"a{level}: &a{level} {value}")
    return "\n".join([*lines, f"selection: {{steps: *a{levels - 1}}}"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (aliases(9, mapping=False), "aliases stand for more than 100,000 values"),
        (aliases(30, mapping=True), "aliases stand for more than 100,000 values"),
        ("a: &a [*a]", "aliases stand for more than|is not YAML"),
        ("- pool: x", "line 1: holds a list, not settings"),
        ("pool", "line 1: holds a str"),
        ("3", "line 1: holds a int"),
        ("1: 2", "line 1: holds a dict"),
        ("include: base.yaml", "include is a list of files"),
        ("pool: [", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        ("pool: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_no_settings_is_named_at_once(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "odd.yaml").write_text(content)
    with pytest.raises(ClipsiftError, match=rf"odd\.yaml.*({words})"):
        with_includes(["--config", str(tmp_path / "odd.yaml")])


def test_aliases_that_stand_for_little_are_read(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", {"0": 2})
    (tmp_path / "few.yaml").write_text(
        f"pool: &here {tmp_path / 'pool'}\ntrusted: *here\nout: {tmp_path / 'run'}\n"
        "selection: {steps: [{score: random, keep: 0.5}]}\n"
    )
    assert parse_run([f"--config={tmp_path / 'few.yaml'}"], needs_eval=False, trains=False).trusted == str(
        tmp_path / "pool"
    )


@pytest.mark.parametrize("key", ["selektion", "poll", "trainer_", "Pool"])
@pytest.mark.parametrize("value", ["", "~", "null"])
def test_an_unknown_key_without_a_value_is_refused(tmp_path: Path, key: str, value: str) -> None:
    write_pool(tmp_path / "pool", {"0": 2})
    path = tmp_path / "odd.yaml"
    path.write_text(f"pool: {tmp_path / 'pool'}\nout: {tmp_path / 'run'}\n{key}: {value}\n")
    with pytest.raises(ClipsiftError, match=key):
        parse_run([f"--config={path}"], needs_eval=False, trains=False)
    path.write_text(f"{key}: {value}\n")
    with pytest.raises(ClipsiftError, match=key):
        parse_settings(evaluate.EvaluateSettings, [f"--config={path}", "--model=m", "--data=d"])
