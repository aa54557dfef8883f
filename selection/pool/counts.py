"""How many samples shards hold by the indexes that other programs leave in a folder of tars."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator

import fsspec
import yaml

from clipsift_common.errors import first_line

logger = logging.getLogger("clipsift")

ENERGON_FOLDER = ".nv-meta/"
_ENERGON = (".info.json", ".info.yaml")
_SIZES = "sizes.json"  # open_clip's, of webdataset: name of a shard -> samples
_WIDS = ("shardindex.json", "index.json", "wids.json")
_LARGEST = 1 << 28  # bytes


def counts_below(fs: fsspec.AbstractFileSystem, root: str, paths: Collection[str]) -> dict[str, int]:
    """Shard -> samples, from the indexes among ``paths``; shards and paths are relative to ``root``.

    Read are open_clip's ``sizes.json``, the ``.nv-meta/.info.json`` (or ``.yaml``) of Energon and a description of
    WIDS under its usual names. Any other content, or damage, is worth nothing and does no harm.

    Args:
        paths: files, and folders that were not entered, which end in ``/``.
    """
    found: dict[str, int] = {}
    for path, folder in sorted(_indexes(paths)):
        try:
            if fs.size(f"{root}/{path}") > _LARGEST:
                raise ValueError("it is too large")
            counts = _counts(path, fs.cat_file(f"{root}/{path}").decode())
        except FileNotFoundError:
            continue
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            logger.debug("%s/%s: tells nothing about shards (%s)", root, path, first_line(error))
            continue
        found |= {folder + name: count for name, count in counts.items() if type(count) is int and count >= 0}
    return found


def _indexes(paths: Collection[str]) -> Iterator[tuple[str, str]]:
    """(File, the folder that its names start from)."""
    for path in paths:
        folder, name = path[: path.rfind("/") + 1], path.rsplit("/", 1)[-1]
        if name == _SIZES or name in _WIDS:
            yield path, folder
        elif path.endswith(ENERGON_FOLDER):
            yield from ((path + name, path.removesuffix(ENERGON_FOLDER)) for name in _ENERGON)
        elif folder.endswith(ENERGON_FOLDER) and name in _ENERGON:
            yield path, folder.removesuffix(ENERGON_FOLDER)


def _counts(path: str, text: str) -> dict[str, int]:
    values = yaml.safe_load(text) if path.endswith(".yaml") else json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}")
    if path.endswith(_ENERGON):
        values = values.get("shard_counts")
    elif not path.endswith(_SIZES):
        shards = values.get("shardlist")
        entries = [entry for entry in shards if isinstance(entry, dict)] if isinstance(shards, list) else []
        values = {str(entry.get("url")): entry.get("nsamples") for entry in entries}
    return values if isinstance(values, dict) else {}
