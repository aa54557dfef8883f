"""Shards that lie elsewhere: behind a server, in an object store, at the end of a command. Whole, or a clear end.

Every transfer is compared with the length that the source states, resumes where it broke off, and is tried again a
bounded number of times with growing pauses.
"""

from __future__ import annotations

import logging
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import fsspec.asyn

from clipsift_common.distributed import split_over_ranks
from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.progress import track

logger = logging.getLogger("clipsift")

T = TypeVar("T")
Stamp = list[int | str]  # size in bytes (-1: unknown until it is here) and what changes with the content

TRIES = 6  # of a request, before the run ends
FIRST_PAUSE = 0.5  # seconds; doubled each time, so that all pauses together are about 15 seconds
STALL = 60.0  # seconds that a request may take, or a command may be silent
CHUNK = 8 << 20  # bytes of a request

_PIPE = "pipe:"
_ASKED = 16  # files that are asked for at a time
_PIECE = 16  # asked for one after the other


class Unreachable(OSError):
    """Something that may be there the next time."""


def is_remote(url: str) -> bool:
    """Whether the shard is no file of this machine (or of a file system that is mounted)."""
    return "://" in url or url.startswith(_PIPE)


def stamp(url: str) -> Stamp:
    """Size and mark of a shard, local or remote, from which one sees that it changed.

    Raises:
        ClipsiftError: when it is not there, cannot be reached, or does not say how long it is.
    """
    if url.startswith(_PIPE):
        return [-1, ""]
    if not is_remote(url):
        try:
            return stamp_of(os.stat(url))
        except OSError as error:
            raise ClipsiftError(f"{url}: cannot be opened ({first_line(error)})") from error
    fs, path = fsspec.core.url_to_fs(url)
    info = patiently(lambda: fs.info(path), url)
    if info.get("size") is None:
        raise ClipsiftError(f"{url}: the server does not say how long it is; use 'pipe:curl -fsS {url}'")
    return [int(info["size"]), mark_in(info)]


def mark_in(info: Mapping[str, Any]) -> str:
    """What changes with the content, of what a file system says of a file; "" when it says nothing."""
    marks = (
        info.get(name) for name in ("mtime", "ETag", "LastModified", "Last-Modified", "etag", "md5Hash", "blob_id")
    )
    return str(next((mark for mark in marks if mark), ""))


def stamps_of(urls: Sequence[str]) -> list[Stamp]:
    """The :func:`stamp` of each; a collective call, in which each rank asks for its share.

    Raises as :func:`stamp`.
    """

    def ask(mine: Sequence[str]) -> list[Stamp]:
        pieces = [mine[start : start + _PIECE] for start in range(0, len(mine), _PIECE)]
        with ThreadPoolExecutor(_ASKED) as threads:  # a request each, where shards are remote
            found = chain.from_iterable(threads.map(lambda piece: [*map(stamp, piece)], pieces))
            return list(track(found, "look at shards", len(mine), "shards", brief=True))

    return split_over_ranks(urls, ask)


def stamp_of(about: os.stat_result) -> Stamp:
    """What :func:`stamp` is for a local file, from what the system says of it."""
    return [about.st_size, str(about.st_mtime)]


def changed(url: str) -> ClipsiftError:
    """For a shard that is not the one that was indexed."""
    text = "has another size or time of change than when it was indexed; start again to index it anew"
    return ClipsiftError(f"{url}: {text}")


def gone(url: str, error: OSError) -> ClipsiftError:
    """For a shard that was indexed and that ``error`` keeps from being read."""
    return ClipsiftError(f"{url}: cannot be read any more ({first_line(error)})")


def size_of(url: str) -> int | None:
    """Bytes of a file; None when it is not there or does not say."""
    try:
        return int(stamp(url)[0])
    except ClipsiftError:
        return None


def read_range(url: str, start: int, stop: int, size: int) -> bytes:
    """Bytes ``[start, stop)`` of an object of ``size`` bytes, in one request.

    A server that does not know ranges answers with the whole, which is returned as it is.

    Raises:
        OSError and whatever a client throws: when the connection broke, the server was busy, took longer than
            :data:`STALL` or sent less than it should.
    """
    fs, path = fsspec.core.url_to_fs(url)
    if fs.async_impl:
        data = fsspec.asyn.sync(fs.loop, fs._cat_file, path, start=start, end=stop, timeout=STALL)
    else:
        data = fs.cat_file(path, start=start, end=stop)
    if len(data) not in (stop - start, size):
        raise Unreachable(f"{len(data)} of {stop - start} bytes came")
    return data


def patiently(action: Callable[[], T], what: str) -> T:
    """The result of ``action``, tried :data:`TRIES` times with growing pauses; then an error that names ``what``."""
    for attempt in range(1, TRIES + 1):
        try:
            return action()
        except ClipsiftError:
            raise
        except Exception as error:  # aiohttp's and botocore's errors are no OSErrors, and neither need be installed
            final = _is_final(error)
            if final or attempt == TRIES:
                tried = "" if final else f" after {TRIES} tries"
                raise ClipsiftError(
                    f"{what}: cannot be read{tried} ({type(error).__name__}: {first_line(error)})"
                ) from error
            logger.debug("%s: %s; trying again", what, error)
            time.sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))  # else all workers knock at once
    raise AssertionError("unreachable")


def _is_final(error: Exception) -> bool:
    """Whether trying again is pointless: it is not there, or not for us."""
    if not isinstance(error, FileNotFoundError | PermissionError):
        return False
    # fsspec's HTTP client calls every trouble with a server "not found"; the cause tells.
    cause = error.__cause__
    if isinstance(cause, OSError) or type(cause).__module__.startswith("aiohttp"):
        return getattr(cause, "status", 500) in (401, 403, 404, 410)
    return True


def download(url: str, known: Stamp, part: IO[bytes]) -> None:
    """Append to ``part`` what it lacks of the shard; ``known`` is its :func:`stamp`.

    Raises:
        ClipsiftError: naming the shard, when it cannot be had whole or is another one by now.
    """
    if url.startswith(_PIPE):
        patiently(lambda: _run(url.removeprefix(_PIPE), part), url)
        return
    if stamp(url) != known:
        raise ClipsiftError(f"{url}: has changed since it was indexed; start again to index it anew")
    size, done = int(known[0]), os.fstat(part.fileno()).st_size
    while done < size:
        data = patiently(partial(read_range, url, done, min(done + CHUNK, size), size), url)
        if len(data) == size:  # also from a server that does not know ranges
            part.truncate(0)
            done = 0
        _write(part, data)
        done += len(data)


def _run(command: str, part: IO[bytes]) -> None:
    """Write what a command prints to ``part``."""
    part.truncate(0)
    process = subprocess.Popen(["/bin/sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    try:
        while True:
            if not select.select([process.stdout], [], [], STALL)[0]:
                raise Unreachable(f"silent for {STALL:g} seconds")
            data = os.read(process.stdout.fileno(), CHUNK)
            if not data:
                break
            _write(part, data)
        if status := process.wait(timeout=STALL):
            raise Unreachable(f"exit status {status}")
        if not os.fstat(part.fileno()).st_size:
            raise Unreachable("no output")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # the shell and what it started
            process.wait()
        process.stdout.close()


def _write(part: IO[bytes], data: bytes) -> None:
    try:
        part.write(data)
        part.flush()
    except OSError as error:  # no trouble of the source's: not to be tried again
        raise ClipsiftError(f"{Path(part.name).parent}: cannot be written ({error.strerror or error})") from error
