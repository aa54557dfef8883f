"""Options that a recipe may set: the parameters of a function, checked before anything is loaded."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from clipsift_common.errors import ClipsiftError


@dataclass(frozen=True)
class Range:
    """Which numbers an option may be: an annotation, ``Annotated[int, Range(1)]``; both ends belong to it."""

    low: float
    high: float = float("inf")
    open_low: bool = False  # whether ``low`` itself is out

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"above {self.low:g}" if self.open_low else f"of at least {self.low:g}"
        return f"in {'(['[not self.open_low]}{self.low:g}, {self.high:g}]"


PositiveInt = Annotated[int, Range(1)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
Share = Annotated[float, Range(0, 1, open_low=True)]

_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", types.NoneType: "null"}


def options_of(function: Callable[..., Any], num_skipped: int = 1) -> dict[str, Any]:
    """Name -> default of the parameters after the first ``num_skipped``; ``inspect.Parameter.empty`` for a must."""
    parameters = list(inspect.signature(function).parameters.values())[num_skipped:]
    return {parameter.name: parameter.default for parameter in parameters}


def infinity_as_word(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which YAML's ``.inf`` is the word ``inf``, which an option that takes it also knows, and JSON."""
    return {name: "inf" if value == math.inf else value for name, value in options.items()}


def check_options(what: str, function: Callable[..., Any], known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise :class:`ClipsiftError` for an option that is not ``known``, one of another type, or a must left out.

    Types are those of the annotations: numbers, also within a :class:`Range`, strings, booleans, ``Literal``, lists,
    and unions of them.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    for option, value in given.items():
        if option not in known:
            raise ClipsiftError(f"{what}: no option {option} (it has: {', '.join(known) or 'none'})")
        if not _fits(value, hints[option]):
            raise ClipsiftError(f"{what}: {option} is {_in_words(hints[option])}, got {value!r}")
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in given:
            raise ClipsiftError(f"{what}: option {option} is missing")


def check_least(what: str, value: float | None, least: float) -> None:
    """Raise :class:`ClipsiftError` for a number below ``least``, and for NaN; None is a default."""
    if value is not None and not value >= least:
        raise ClipsiftError(f"{what}: must be {least:g} or more, got {value}")


def _fits(value: Any, hint: Any) -> bool:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _fits(value, members[0]) and all(value in range_ for range_ in members[1:])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is Literal:
        return any(type(value) is type(member) and value == member for member in members)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, members[0]) for item in value)
    if isinstance(value, bool):  # to Python also a whole number
        return hint is bool
    if isinstance(value, float) and math.isnan(value):
        return False
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([_in_words(members[0]), *map(str, members[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(member) for member in members)
    if origin is Literal:
        return " or ".join("off" if member is False else str(member) for member in members)
    if origin is list:
        return "a list, each " + _in_words(members[0])
    return _WORDS[hint]
