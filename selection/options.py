"""Options that a recipe may set: the parameters of a function, checked before anything is loaded."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

from common.errors import ClipsiftError

_WORDS = {int: "a whole number", float: "a number", str: "a word", bool: "true or false", types.NoneType: "null"}


def options_of(function: Callable[..., Any], num_skipped: int = 1) -> dict[str, Any]:
    """Name -> default of the parameters after the first ``num_skipped``; ``inspect.Parameter.empty`` for a must."""
    parameters = list(inspect.signature(function).parameters.values())[num_skipped:]
    return {parameter.name: parameter.default for parameter in parameters}


def check_options(what: str, function: Callable[..., Any], known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise :class:`ClipsiftError` for an option that is not ``known``, one of another type, or a must left out.

    Types are those of the annotations: numbers, strings, booleans, ``Literal``, lists, and unions of them.
    """
    hints = typing.get_type_hints(function)
    for option, value in given.items():
        if option not in known:
            raise ClipsiftError(f"{what}: no option {option} (it has: {', '.join(known) or 'none'})")
        if not _fits(value, hints[option]):
            raise ClipsiftError(f"{what}: {option} is {_in_words(hints[option])}, got {value!r}")
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in given:
            raise ClipsiftError(f"{what}: option {option} is missing")


def _fits(value: Any, hint: Any) -> bool:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in members)
    if origin is Literal:
        return any(type(value) is type(member) and value == member for member in members)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, members[0]) for item in value)
    if isinstance(value, bool):  # to Python also a whole number
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def _in_words(hint: Any) -> str:
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_in_words(member) for member in members)
    if origin is Literal:
        return " or ".join("off" if member is False else str(member) for member in members)
    if origin is list:
        return "a list, each " + _in_words(members[0])
    return _WORDS[hint]
