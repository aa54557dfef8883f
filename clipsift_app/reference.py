"""The settings reference, made from the code: ``python -m clipsift_app.reference`` prints docs/settings.md."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import is_dataclass
from typing import Any

import docstring_parser

from clipsift_app.run_cli import RunCLI
from clipsift_app.settings import Checkpoint, Evaluation
from clipsift_app.validation import Validation
from clipsift_app.verbs import VERBS
from clipsift_common.machine import Machine
from selection.methods import METHODS
from selection.recipe.step import Step
from selection.samples.fields import Fields
from selection.scores import SCORES
from selection.scoring.combine import COMBINATIONS
from selection.settings import Embedding, Selection, Teacher, TeacherTraining
from training.data import PoolDataModule
from training.model import CLIPModule
from training.online import Online

WIDTH = 120  # columns of the page
# Keys of a run that are mappings, and what says what is in them.
GROUPS: dict[str, Callable[..., Any]] = {
    "selection": Selection,
    "selection.teacher": Teacher,
    "selection.teacher.train": TeacherTraining,
    "selection.embedding": Embedding,
    "selection.steps[i]": Step,
    "online": Online,
    "model": CLIPModule,
    "data": PoolDataModule,
    "fields": Fields,
    "evaluation": Evaluation,
    "validation": Validation,
    "checkpoint": Checkpoint,
    "trainer": Machine,
}
_LINKED = {
    "data": {"pool", "fields", "out", "cache", "max_loss", "seed", "model"},
    "model": {"seed"},
    "selection.steps[i]": {"options"},
}  # said once, at the top
_NO_KEYS = {*GROUPS, "help", "config", "print_config", "print_shtab"}
_REQUIRED = {"pool", "out"}
_EMPTY = inspect.Parameter.empty
_HEAD = """# Settings

Every key of a run's YAML, every option of the other verbs, of scores and of set methods, as the code has them. This
page is printed by `python -m clipsift_app.reference`. A key `a.b` is `a: {b: ...}` in YAML and `--a.b` on the command
line.
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD, "## A run\n", *_top_level()]
    for name, kind in GROUPS.items():
        parts += [f"### {name}\n", *_section(kind, _LINKED.get(name, set()))]
        if name == "trainer":
            parts.append(
                _fill("Other keys of `trainer` are those of Lightning's `Trainer`; a run's length is not.") + "\n"
            )
    parts.append("## Other verbs\n")
    for verb in VERBS:
        settings = _settings_of(verb)
        if settings is not None:
            parts += [f"### clipsift {verb}\n", *_section(settings, set())]
    parts.append("## Scores\n")
    for name, spec in sorted(SCORES.items()):
        parts += [f"### {name}\n", *_options(spec.function, dict(spec.options))]
    for name, function in COMBINATIONS.items():
        options = {key: p.default for key, p in list(inspect.signature(function).parameters.items())[1:]}
        parts += [f"### {name}\n", *_options(function, {"of": _EMPTY} | options)]
    parts.append("## Set methods\n")
    for name, method in sorted(METHODS.items()):
        parts += [f"### {name}\n", *_options(method.function, dict(method.options))]
    return "\n".join(parts)


def _settings_of(verb: str) -> Callable[..., Any] | None:
    """The settings of a verb that is no run: its module's one dataclass of that name."""
    module = importlib.import_module(f"clipsift_app.verbs.{verb}")
    return getattr(module, f"{verb.capitalize()}Settings", None)


def _top_level() -> Iterator[str]:
    """The keys that are no mappings, from the parser itself."""
    cli = RunCLI(["--pool=.", "--out=."], trains=False)
    actions = [action for action in cli.parser._actions if "." not in action.dest and action.dest not in _NO_KEYS]
    yield from _table(
        [(key.dest, "", _EMPTY if key.dest in _REQUIRED else key.default, key.help or "") for key in actions]
    )


def _section(kind: Callable[..., Any], left_out: set[str]) -> Iterator[str]:
    """What a dataclass or a class with ``Args`` says of itself, and its fields."""
    parsed = docstring_parser.parse(inspect.cleandoc(inspect.getdoc(kind) or ""))
    if is_dataclass(kind):
        yield _prose(inspect.getdoc(kind) or "")
    said = {param.arg_name: param.description or "" for param in parsed.params}
    made = {field.name: field.default_factory for field in dataclasses.fields(kind)} if is_dataclass(kind) else {}
    rows = [
        (name, _type(parameter.annotation), _default(parameter, made.get(name)), said.get(name, ""))
        for name, parameter in inspect.signature(kind).parameters.items()
        if name not in left_out
    ]
    yield from _table(rows)


def _options(function: Callable[..., Any], options: dict[str, Any]) -> Iterator[str]:
    yield _prose(inspect.getdoc(function) or inspect.getdoc(inspect.getmodule(function)) or "")
    annotations = inspect.get_annotations(function)
    yield from _table([(name, _type(annotations.get(name, "")), value, "") for name, value in options.items()])


def _default(parameter: inspect.Parameter, factory: Any) -> Any:
    """The default; empty where a value must be given."""
    return factory() if factory not in (None, dataclasses.MISSING) else parameter.default


def _table(rows: list[tuple[str, str, Any, str]]) -> Iterator[str]:
    """A list, a line or more each: long descriptions have no room in a Markdown table."""
    for name, kind, default, text in rows:
        given = "required" if default is _EMPTY else f"default `{_word(default)}`"
        about = f"* `{name}`: {', '.join(part for part in (f'`{kind}`' if kind else '', given) if part)}"
        yield _fill(f"{about}. {_plain(text)}" if text else about, "  ")
    if rows:
        yield ""


def _word(default: Any) -> str:
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return "see below" if is_dataclass(default) else str(default) or "empty"


def _type(annotation: Any) -> str:
    """An annotation as plain words of YAML's types."""
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return re.sub(r"Annotated\[(\w+), .*?\)\]", r"\1", text).replace(" | None", " or null").replace(" | ", " or ")


def _prose(text: str) -> str:
    """A docstring's paragraphs up to its first section, without Sphinx's marks."""
    kept = re.split(r"\n\s*(?:Args|Returns|Raises|Attributes):", text)[0]
    return "\n\n".join(_fill(_plain(paragraph)) for paragraph in kept.split("\n\n")) + "\n"


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?([\w]+)`", r"`\1`", text)
    return " ".join(text.replace("``", "`").split())


def _fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    print(reference(), end="")
