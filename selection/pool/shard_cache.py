"""Remote and packed shards on this machine: whole tars, in a bounded folder that all processes share."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.files import fingerprint
from selection.pool.packed.shards import UNPACKING, is_packed, is_parquet, unpack, unpack_command
from selection.pool.remote import Stamp, changed, download, gone, is_remote, stamp_of
from selection.samples.fields import Fields

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_STEP = 64 << 20  # bytes for which room is made at a time while a shard is unpacked


def is_cached(url: str) -> bool:
    """Whether a shard is read from a cache: one that lies elsewhere, or must be unpacked first."""
    return is_remote(url) or is_packed(url)


class ShardCache:
    """Whole tars of remote and packed shards in a folder of at most ``limit`` bytes, shared by a machine's processes.

    A shard is fetched or unpacked by one process while the others that want it wait; it appears under its name when
    it is whole. When room is needed, those that were not used for longest go. A transfer that was interrupted, even by
    the end of the program, resumes where it stopped. ``fields``: which columns of a parquet make a sample.
    """

    def __init__(self, folder: str | Path, limit: int, fields: Fields | None = None) -> None:
        self.folder, self.limit, self.fields = Path(folder), limit, fields or Fields()

    def open(self, url: str, known: Stamp) -> IO[bytes]:
        """The shard as a local tar, made if it is not here.

        Args:
            url: where it is from.
            known: what :func:`stamp` said when it was indexed.

        Raises:
            ClipsiftError: naming the shard, when it cannot be had whole or is another one by now.
        """
        if not is_remote(url):
            _check_unchanged(url, known)
        return self._open(self._path(url, known), lambda: self.fetch(url, known))

    def fetch(self, url: str, known: Stamp) -> None:
        """Have the shard here; see :meth:`open`."""
        path = self._path(url, known)
        if is_packed(url):
            self._make(path, 0, lambda part: self._unpack(url, known, part))
        else:
            self._download(url, known, path)

    def _open(self, path: Path, make: Callable[[], None]) -> IO[bytes]:
        while True:
            with suppress(FileNotFoundError):
                handle = open(path, "rb")  # noqa: SIM115 - the caller's
                os.utime(path)  # was used just now
                return handle
            make()

    def _make(self, path: Path, size: int, fill: Callable[[IO[bytes]], None]) -> None:
        """Have ``path``, of ``size`` bytes as far as they are known, whose content ``fill`` writes."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with held(self.folder / f"{path.stem}.{size}.part") as part:
                if path.exists():  # another process was faster
                    os.unlink(part.name)
                    return
                fill(part)
                os.replace(part.name, path)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                text = "its file system has no locks, which processes that share it need"
                raise ClipsiftError(f"{self.folder}: {text}; give --cache on a disk of the node") from error
            raise ClipsiftError(f"{self.folder}: cannot be written ({error.strerror or error})") from error

    def _download(self, url: str, known: Stamp, path: Path) -> None:
        size = max(int(known[0]), 0)

        def fill(part: IO[bytes]) -> None:
            self._make_room(Path(part.name), size)
            download(url, known, part)

        self._make(path, size, fill)

    def _unpack(self, url: str, known: Stamp, part: IO[bytes]) -> None:
        room = 0

        def make_room(size: int) -> None:
            nonlocal room
            if size > room:
                room = size + _STEP
                if size > self.limit:
                    text = f"unpacks to more than the {self.limit / 1e9:.2f} GB of the cache"
                    helps = f", or unpack it: {command}" if (command := unpack_command(url)) else ""
                    raise ClipsiftError(f"data.shard_cache_gb: {url}: {text}; raise it{helps}")
                self._make_room(Path(part.name), min(room, self.limit))

        part.truncate(0)  # of an earlier start that ended
        try:
            with self._packed(url, known) as source:
                unpack(source, url, int(known[0]), part, make_room, self.fields)
        except (ClipsiftError, OSError):
            os.ftruncate(part.fileno(), 0)  # what is worth nothing takes no room
            raise
        part.flush()
        if is_remote(url):
            with suppress(FileNotFoundError):
                os.unlink(source.name)

    def _packed(self, url: str, known: Stamp) -> IO[bytes]:
        if not is_remote(url):
            try:
                return open(url, "rb")
            except OSError as error:
                raise ClipsiftError(f"{url}: cannot be opened ({first_line(error)})") from error
        path = self.folder / f"{self._path(url, known).stem}-packed"
        return self._open(path, lambda: self._download(url, known, path))

    def _path(self, url: str, known: Stamp) -> Path:
        what = [url, known, *([UNPACKING] if is_packed(url) else []), *(self._columns(url))]
        return self.folder / f"{fingerprint(what)}.tar"

    def _columns(self, url: str) -> list[dict[str, Any]]:
        return [self.fields.identity()] if is_parquet(url) else []

    def _make_room(self, own: Path, size: int) -> None:
        """Delete what was not used for longest until ``size`` more bytes fit."""
        if size > self.limit:
            raise ClipsiftError(
                f"data.shard_cache_gb: a shard of {size / 1e9:.2f} GB does not fit into {self.limit / 1e9:.2f} GB"
            )
        lying, coming = [], size
        for other in self.folder.iterdir():
            with suppress(FileNotFoundError):
                if other.suffix == ".part" and other != own and _is_claimed(other):
                    coming += max(int(other.name.split(".")[1]), other.stat().st_size)
                elif other != own:  # whole, or left by a program that ended
                    lying.append((other.stat().st_mtime, other.stat().st_size, other))
        taken = coming + sum(length for _, length, _ in lying)
        for _, length, other in sorted(lying):
            if taken <= self.limit:
                return
            with suppress(FileNotFoundError), held(other):
                other.unlink()
            taken -= length


def _check_unchanged(url: str, known: Stamp) -> None:
    try:
        about = os.stat(url)
    except OSError as error:
        raise gone(url, error) from error
    if stamp_of(about) != known:
        raise changed(url)


@contextmanager
def held(path: Path) -> Iterator[IO[bytes]]:
    """``path`` opened for appending, for this process and thread alone; made if it is not there."""
    while True:
        with open(path, "ab") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            mine = False
            with suppress(FileNotFoundError):
                mine = os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
            if mine:  # else it was moved or deleted while this one waited
                yield handle
                return


def _is_claimed(path: Path) -> bool:
    with open(path, "rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
