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


def parse(folder: Path, *settings: str) -> None:
    """A run of a small pool with these lines in its config."""
    write_pool(folder / "pool", {"0": 2})
    lines = [f"pool: {folder / 'pool'}", f"out: {folder / 'run'}", *settings]
    (folder / "odd.yaml").write_text("\n".join(lines))
    parse_run([f"--config={folder / 'odd.yaml'}"], needs_eval=False, trains=False)


@pytest.mark.parametrize(
    "group", ["selection", "trainer", "model", "data", "evaluation", "validation", "checkpoint", "selection.embedding"]
)
@pytest.mark.parametrize("value", ["", "~", "3", "1.5", "true", "word", "[1]", "/etc/hostname"])
def test_a_group_of_settings_that_is_none_is_refused_by_name(tmp_path: Path, group: str, value: str) -> None:
    line = f"{group}: {value}" if "." not in group else f"selection: {{embedding: {value}}}"
    with pytest.raises(ClipsiftError, match=rf"odd\.yaml: {group} is .*, not settings; give some, or leave it out"):
        parse(tmp_path, line)


@pytest.mark.parametrize(
    "line",
    [
        "selection: {steps: 3}",
        "selection: {steps: [3]}",
        "selection: {stepz: []}",
        "selection: {teacher: 3}",
        "selection: {within: 3}",
        "max_loss: much",
        "pool: [a]",
        "trainer: {device: 1}",
        "checkpoint: {steps: a}",
        "evaluation: {rules: mine}",
        "seed_everything: x",
    ],
)
def test_a_wrong_setting_is_named_with_its_file(tmp_path: Path, line: str) -> None:
    """Of several files the one that has it."""
    (tmp_path / "fine.yaml").write_text("checkpoint: {minutes: 3}\nselection: {normalise: true}\n")
    with pytest.raises(ClipsiftError, match=r"^config: \S*odd\.yaml: ") as caught:
        parse(tmp_path, f"include: [{tmp_path / 'fine.yaml'}]", line)
    assert "\n" not in str(caught.value)


def test_the_command_line_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool", {"0": 2})
    (tmp_path / "fine.yaml").write_text(f"max_loss: 0.1\npool: {tmp_path / 'pool'}\n")
    with pytest.raises(ClipsiftError, match="max_loss") as caught:
        parse_run([f"--config={tmp_path / 'fine.yaml'}", "--max_loss=much"], needs_eval=False, trains=False)
    assert "fine.yaml" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("checkpoint: {steps: 0}", "checkpoint.steps: must be 1 or more, got 0"),
        ("checkpoint: {minutes: .nan}", "checkpoint.minutes: must be 0 or more, got nan"),
        ("evaluation: {batch_size: 0}", "evaluation.batch_size: must be 1 or more"),
        ("evaluation: {workers: -1}", "evaluation.workers: must be 0 or more"),
        ("selection: {embedding: {batch_size: -8}}", "selection.embedding.batch_size: must be 1 or more"),
        ("selection: {embedding: {workers: -1}}", "selection.embedding.workers: must be 0 or more"),
        ("seed_everything: -1", "seed_everything: is a number from 0 to 4294967295, got -1"),
        ("seed_everything: 4294967296", "seed_everything: is a number from 0 to 4294967295"),
    ],
)
def test_numbers_that_nothing_can_be_done_with_are_refused(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ClipsiftError, match=words):
        parse(tmp_path, line)
