"""What a file's name says about it: whether it is a shard, and what else lies beside shards."""

from __future__ import annotations

import posixpath
import re

from selection.pool.packed.shards import SHARD_SUFFIXES

# All suffixes are compared without case.
PACKED_SUFFIXES = (*(".tar.lz4", ".tar.lzma", ".tar.lz", ".tar.z", ".tar.br", ".tar.sz", ".tar.lzo"), ".tlz", ".taz")
ARCHIVE_SUFFIXES = (".zip", ".7z", ".rar")
FEATURE_SUFFIXES = (".npz",)
PARTIAL_SUFFIXES = (
    *(".tmp", ".temp", ".part", ".partial", ".incomplete", ".unfinished", ".inprogress", ".filepart"),
    *(".crdownload", ".download", ".opdownload", ".!qb", ".!ut", "._copying_", ".gstmp"),
)
ARIA2 = ".aria2"  # until a file is whole, aria2 keeps this beside it; the file has its full length before
SIDECAR_SUFFIXES = (
    *(".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".rst", ".html", ".yaml", ".yml", ".log", ".pdf", ARIA2),
    *(".idx", ".index", ".crc", ".md5", ".sha1", ".sha256", ".sha512", ".sum", ".asc", ".sig", ".etag", ".lock"),
)
SIDECAR_NAMES = ("_success", "_started", "_committed", "readme", "license", "thumbs.db", "desktop.ini")
STATS = "_stats.json"  # the end of the name of img2dataset's statistics of a shard

_TARS = SHARD_SUFFIXES + PACKED_SUFFIXES
_TAR_AND_MORE = re.compile(r"(.+)\.tar[.~_ -][^/]*", re.IGNORECASE)


def ending(path: str, suffixes: tuple[str, ...]) -> str:
    """The one of ``suffixes`` that ``path`` ends in, as it is written there; "" without one."""
    lower = path.lower()
    if lower.endswith(suffixes):  # asked at once: there may be a million files
        for suffix in suffixes:
            if lower.endswith(suffix):
                return path[-len(suffix) :]
    return ""


def shard_suffix(path: str) -> str:
    """The suffix that makes a file a shard which can be read (``.tar``, ``.TAR``); "" if it is none."""
    return ending(path, SHARD_SUFFIXES)


def without_suffix(path: str) -> str:
    """A path without its suffix, that of a shard without the whole of it: ``a/x.tar.gz`` -> ``a/x``."""
    return path.removesuffix(ending(path, _TARS) or posixpath.splitext(path)[1])


def shard_of(path: str) -> str | None:
    """``a/x`` for any form of the shard ``a/x.tar``: whole, packed, half downloaded, renamed; None if it is none."""
    whole = path.removesuffix(ending(path, PARTIAL_SUFFIXES))
    if ending(whole, _TARS + ARCHIVE_SUFFIXES):
        return without_suffix(whole)
    if ending(whole, SIDECAR_SUFFIXES):
        return None
    match = _TAR_AND_MORE.fullmatch(whole)
    return match[1] if match else None
