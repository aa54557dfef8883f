"""Pools that a file lists: a path or address per line, a JSON list of them, or a description of WIDS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

from clipsift_common.errors import ClipsiftError, first_line
from selection.pool.remote import patiently

_SUFFIXES = (".txt", ".list", ".json", ".jsonl")
_LARGEST = 1 << 28  # bytes; a list of a million addresses has 0.1 GB


@dataclass(frozen=True)
class Entry:
    """One place of a list, which may be a pattern, and how many samples the list says are there."""

    location: str
    num_samples: int | None = None


def is_list(location: str) -> bool:
    """Whether a location is a file that lists others."""
    if not location.lower().endswith(_SUFFIXES) or location.startswith("pipe:"):
        return False
    fs, path = fsspec.core.url_to_fs(location)
    return bool(fs.isfile(path))


def read_list(location: str) -> list[Entry]:
    """The places that a file lists, in its order. Relative ones start at the file's folder, as those of WIDS do.

    A command in a list is refused: what is data is not executed.

    Raises:
        ClipsiftError: for a file that lists nothing, or something else than places.
    """
    fs, path = fsspec.core.url_to_fs(location)
    if fs.size(path) > _LARGEST:
        raise ClipsiftError(f"pool: {location} has {fs.size(path)} bytes, too many for a list of shards")
    data = patiently(lambda: fs.cat_file(path), location)
    try:
        text = data.decode("utf-8-sig")
        is_json = location.lower().endswith((".json", ".jsonl"))
        entries = list(_in_json(location, text)) if is_json else [Entry(line) for line in _lines(text)]
    except ValueError as error:
        raise ClipsiftError(f"pool: {location} is no list of shards ({first_line(error)})") from error
    if not entries:
        raise ClipsiftError(f"pool: {location} lists no shard")
    return [Entry(_resolved(entry.location, location), entry.num_samples) for entry in entries]


def _lines(text: str) -> Iterator[str]:
    lines = (line.strip() for line in text.splitlines())
    yield from (line for line in lines if line and not line.startswith("#"))


def _in_json(location: str, text: str) -> Iterator[Entry]:
    if location.lower().endswith(".jsonl"):
        values: Any = [json.loads(line) for line in _lines(text)]
    else:
        values = json.loads(text)
    base = ""
    if isinstance(values, dict):
        if not isinstance(values.get("shardlist"), list):
            raise ValueError(f"it has no shardlist, but {', '.join(map(str, values)) or 'nothing'}")
        values, base = values["shardlist"], str(values.get("base") or "")
    if not isinstance(values, list):
        raise ValueError(f"it holds a {type(values).__name__}")
    for number, value in enumerate(values):
        entry = value if isinstance(value, dict) else {"url": value}
        url, count = entry.get("url"), entry.get("nsamples")
        if not isinstance(url, str) or not url or not (count is None or type(count) is int):
            raise ValueError(f"entry {number} is {json.dumps(value)[:80]}, not an address or url and nsamples")
        yield Entry(_below(base, url), count)


def _resolved(place: str, location: str) -> str:
    if place.startswith("pipe:"):
        raise ClipsiftError(f"pool: {location} lists a command ({place[:80]}); give commands as --pool itself")
    return _below(location.rpartition("/")[0], place)


def _below(folder: str, place: str) -> str:
    is_absolute = place.startswith(("/", "pipe:")) or "://" in place
    return place if is_absolute or not folder else f"{folder.rstrip('/')}/{place}"
