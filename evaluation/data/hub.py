"""A dataset repository on the Hugging Face Hub: what it holds, and its files, however often the line is cut."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    build_hf_headers,
    hf_raise_for_status,
    http_backoff,
)

from clipsift_common.errors import ClipsiftError, first_line

CHUNK = 1 << 24  # bytes per request: what a cut line costs at most
_BUSY = (408, 429, 500, 502, 503, 504)  # statuses that pass
_WAITS = (1.0, 4.0)  # seconds before another attempt to list a repository
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Unreachable(ClipsiftError):
    """The hub cannot be asked, and its cache on this machine has nothing either."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository.

    ``digest`` is the hub's word for the content: SHA-256 (64 hex digits) of large files, git's blob hash (40) of small
    ones, None if not known. ``cached`` is where the hub's own cache on this machine has it.
    """

    name: str
    size: int
    digest: str | None
    cached: Path | None = None


@dataclass(frozen=True)
class Repository:
    """A repository at one commit."""

    name: str
    revision: str
    files: dict[str, HubFile]


def open_repository(name: str, anchor: str, wanted: Callable[[str], bool], endpoint: str | None = None) -> Repository:
    """The files of dataset repository ``name``, as the hub says, or else as its cache on this machine has them.

    Args:
        name: ``user/repository``.
        anchor: a file in its root; a cache without it is none.
        wanted: which names to look at. The hub may say any; only those that this accepts become paths.
        endpoint: address of the hub; None: ``HF_ENDPOINT``, or the public one.

    Raises:
        Unreachable: if neither knows it.
    """
    try:
        return _ask(name, wanted, endpoint)
    except Exception as error:  # requests, httpx or httpx2 raise their own, whichever the hub's package is built on
        if cached := _cached(name, anchor, wanted):
            return cached
        raise Unreachable(f"{name}: cannot be listed ({first_line(error)})") from error


def _ask(name: str, wanted: Callable[[str], bool], endpoint: str | None) -> Repository:
    for wait in (*_WAITS, None):
        try:
            info = HfApi(endpoint=endpoint).dataset_info(name, files_metadata=True)
            break
        except Exception as error:
            refused = isinstance(error, HfHubHTTPError) and error.response.status_code not in _BUSY
            if wait is None or refused or isinstance(error, OfflineModeIsEnabled):
                raise
            time.sleep(wait)
    revision, files = _hex(info.sha), {}
    for entry in info.siblings or []:
        if not wanted(entry.rfilename):
            continue
        found = try_to_load_from_cache(name, entry.rfilename, revision=revision, repo_type="dataset")
        cached = Path(found) if isinstance(found, str) else None
        digest = _hex(entry.lfs.sha256 if entry.lfs else entry.blob_id)
        files[entry.rfilename] = HubFile(entry.rfilename, _size(entry.size), digest, cached)
    return Repository(name, revision, files)


def _size(size: int | None) -> int:
    if size is None or size < 0:
        raise ValueError(f"it sends {size!r} as a size")
    return size


def _hex(digest: str | None) -> str:
    if not digest or not _DIGEST.fullmatch(digest):
        raise ValueError(f"it sends {digest!r} as a digest")
    return digest


def _cached(name: str, anchor: str, wanted: Callable[[str], bool]) -> Repository | None:
    try:
        snapshot = Path(hf_hub_download(name, anchor, repo_type="dataset", local_files_only=True)).parent
    except Exception:
        return None
    files = {}
    for path in sorted(snapshot.rglob("*")):
        file = path.relative_to(snapshot).as_posix()
        if path.is_file() and wanted(file):
            blob = path.resolve().name  # the cache keeps contents under their digests
            digest = blob if path.is_symlink() and _DIGEST.fullmatch(blob) else None
            files[file] = HubFile(file, path.stat().st_size, digest, path)
    return Repository(name, snapshot.name, files)


def fetch(
    repository: Repository, file: HubFile, path: Path, advance: Callable[[int], None], endpoint: str | None = None
) -> str:
    """Put a file at ``path``, whole and compared with the hub's digest; its SHA-256.

    What has arrived is kept in a hidden ``.part`` beside it, from where the next call resumes.

    Args:
        advance: told the number of bytes that are there in addition; what it raises ends the transfer.

    Raises:
        ClipsiftError: when the hub does not answer, or has sent twice what is not the file.
    """
    part = path.with_name(f".{path.name}.{(file.digest or repository.revision)[:16]}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(2):
        if file.cached and attempt == 0:
            shutil.copyfile(file.cached, part)
            advance(file.size)
        else:
            _transfer(repository, file, part, advance, endpoint)
        if (sha256 := content_hash(part, file)) is not None:
            os.replace(part, path)
            return sha256
        part.unlink()
        advance(-file.size)
    raise ClipsiftError(f"{repository.name}/{file.name}: arrived damaged, twice")


def _transfer(
    repository: Repository, file: HubFile, part: Path, advance: Callable[[int], None], endpoint: str | None
) -> None:
    url = hf_hub_url(repository.name, file.name, repo_type="dataset", revision=repository.revision, endpoint=endpoint)
    with open(part, "ab") as handle:
        if handle.tell() > file.size:
            handle.truncate(0)
        advance(handle.tell())
        while (start := handle.tell()) < file.size:
            stop = min(start + CHUNK, file.size)
            data = _range(url, f"{repository.name}/{file.name}", start, stop)
            handle.write(data)
            advance(len(data))


def _range(url: str, name: str, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop`` of what is at ``url``; asks several times (waiting longer and longer)."""
    headers = build_hf_headers() | {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    try:
        response = http_backoff("GET", url, headers=headers, timeout=60, retry_on_status_codes=_BUSY)
        hf_raise_for_status(response)
    except Exception as error:  # as in open_repository
        raise ClipsiftError(f"{name}: cannot be fetched ({first_line(error)})") from error
    if len(response.content) != stop - start:
        raise ClipsiftError(
            f"{name}: the server sent {len(response.content)} bytes where {stop - start} were asked for"
        )
    return response.content


def content_hash(path: Path, file: HubFile) -> str | None:
    """SHA-256 of ``path`` in hex if it is ``file``, else None."""
    if not path.is_file() or path.stat().st_size != file.size:
        return None
    with open(path, "rb") as handle:
        sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
        if file.digest is not None and len(file.digest) == 40:
            handle.seek(0)
            blob = hashlib.sha1(b"blob %d\0" % file.size + handle.read(), usedforsecurity=False)
            return sha256 if blob.hexdigest() == file.digest else None
    return sha256 if file.digest in (None, sha256) else None
