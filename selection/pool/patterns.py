"""What a location with braces, stars or brackets means."""

from __future__ import annotations

import glob
from collections.abc import Iterator

import fsspec
from braceexpand import braceexpand
from fsspec.implementations.http import HTTPFileSystem
from fsspec.implementations.local import LocalFileSystem

from clipsift_common.errors import ClipsiftError

_BRACE, _GLOB = "{", "*["


def expand(location: str) -> Iterator[str]:
    """The places that ``location`` means, in order: brace ranges first, then what fits a glob, sorted.

    Names that exist as they are written are no patterns. Those of a brace range need not exist.

    Raises:
        ClipsiftError: for a glob that nothing fits, or braces that do not close.
    """
    literal, pattern = _split(location, _BRACE + _GLOB)
    try:
        parts = list(braceexpand(pattern)) if _BRACE in pattern else [pattern]
    except ValueError as error:  # its UnbalancedBracesError
        raise ClipsiftError(f"pool: {location} does not exist, and its braces do not close") from error
    for part in parts:
        yield from _glob(literal + part)


def _split(location: str, marks: str) -> tuple[str, str]:
    """(The folders at the beginning that exist as they are written, the pattern behind them)."""
    parts = location.split("/")
    for number, part in enumerate(parts):
        if any(mark in part for mark in marks) and not _exists("/".join(parts[: number + 1])):
            literal = "".join(f"{folder}/" for folder in parts[:number])
            return literal, location.removeprefix(literal)
    return location, ""


def _exists(location: str) -> bool:
    fs, path = fsspec.core.url_to_fs(location)
    return not isinstance(fs, HTTPFileSystem) and fs.exists(path)  # web addresses have no such names


def _glob(location: str) -> Iterator[str]:
    literal, pattern = _split(location, _GLOB)
    if not pattern:
        yield location
        return
    fs, path = fsspec.core.url_to_fs(glob.escape(literal) + pattern if literal else pattern)
    if isinstance(fs, LocalFileSystem):
        found = sorted(glob.iglob(path, recursive=True))  # enters links, as a walk does
    else:
        found = [fs.unstrip_protocol(place) for place in sorted(fs.glob(path))]
    if not found:
        raise ClipsiftError(f"pool: {location} does not exist")
    yield from found
