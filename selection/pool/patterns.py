"""What a location with braces, stars or brackets means."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from typing import Any

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


def is_pattern(location: str) -> bool:
    """Whether a location stands for others."""
    return bool(_split(location, _BRACE + _GLOB)[1])


def entries_beside(location: str, places: Sequence[str]) -> dict[str, list[str]]:
    """What lies in the folders that lead to the ``places`` which a pattern means, by folder; ``/`` ends a folder.

    The folders that the places are in are not among it; nothing is entered. What cannot be listed has nothing.
    """
    fs, root = fsspec.core.url_to_fs(_split(location, _BRACE + _GLOB)[0] or ".")
    if isinstance(fs, HTTPFileSystem):  # which has no lists, only pages
        return {}
    taken = [str(fs._strip_protocol(place)).rstrip("/") for place in places]
    folders = {root.rstrip("/")}
    for path in taken:
        while (path := path.rpartition("/")[0]) not in folders and path.startswith(f"{root.rstrip('/')}/"):
            folders.add(path)
    found = {}
    for folder in sorted(folders):
        try:
            entries = fs.ls(folder or "/", detail=True)
        except Exception:  # each client has its own, and this is only for information
            continue
        names = {entry["name"].rstrip("/"): entry["type"] == "directory" or _is_folder(fs, entry) for entry in entries}
        found[folder] = [
            path.rpartition("/")[2] + "/" * is_folder for path, is_folder in names.items() if path not in folders
        ]
    return found


def _is_folder(fs: fsspec.AbstractFileSystem, entry: dict[str, Any]) -> bool:
    """Of a link, whether it leads to one."""
    return bool(entry.get("islink")) and fs.isdir(entry["name"])


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
