"""Remote shards on this machine: whole, in a bounded folder that all processes share."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint
from selection.pool.remote import Stamp, download

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class ShardCache:
    """Whole remote shards in a folder of at most ``limit`` bytes, shared by all processes of a machine.

    A shard is fetched by one process while the others that want it wait; it appears under its name when it is whole.
    When room is needed, those that were not used for longest go. A transfer that was interrupted, even by the end of
    the program, resumes where it stopped.
    """

    def __init__(self, folder: str | Path, limit: int) -> None:
        self.folder, self.limit = Path(folder), limit

    def open(self, url: str, known: Stamp) -> IO[bytes]:
        """The shard as a local file, fetched if it is not here.

        Args:
            url: where it is from.
            known: what :func:`stamp` said when it was indexed.

        Raises:
            ClipsiftError: naming the shard, when it cannot be had whole or is another one by now.
        """
        path = self._path(url, known)
        while True:
            with suppress(FileNotFoundError):
                handle = open(path, "rb")  # noqa: SIM115 - the caller's
                os.utime(path)  # was used just now
                return handle
            self.fetch(url, known)

    def fetch(self, url: str, known: Stamp) -> None:
        """Have the shard here; see :meth:`open`."""
        path = self._path(url, known)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _claimed(self.folder / f"{path.stem}.{max(int(known[0]), 0)}.part") as part:
                if path.exists():  # another process was faster
                    os.unlink(part.name)
                    return
                self._make_room(Path(part.name), max(int(known[0]), 0))
                download(url, known, part)
                os.replace(part.name, path)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                text = "its file system has no locks, which processes that share it need"
                raise ClipsiftError(f"{self.folder}: {text}; give --cache on a disk of the node") from error
            raise ClipsiftError(f"{self.folder}: cannot be written ({error.strerror or error})") from error

    def _path(self, url: str, known: Stamp) -> Path:
        return self.folder / f"{fingerprint([url, known])}.tar"

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
                    coming += int(other.name.split(".")[1])
                elif other != own:  # whole, or left by a program that ended
                    lying.append((other.stat().st_mtime, other.stat().st_size, other))
        taken = coming + sum(length for _, length, _ in lying)
        for _, length, other in sorted(lying):
            if taken <= self.limit:
                return
            with suppress(FileNotFoundError), _claimed(other):
                other.unlink()
            taken -= length


@contextmanager
def _claimed(path: Path) -> Iterator[IO[bytes]]:
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
