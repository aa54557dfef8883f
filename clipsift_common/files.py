"""Files that are either whole or absent, and fingerprints that tell one file's content from another's."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.progress import track

VISIBLE_WITHIN = 90.0  # seconds; NFS keeps what it knows of a folder for up to 60
FINGERPRINT_LENGTH = 16  # hex digits: 64 bits tell apart any number of files a run will ever have
_SEAL = "seal"  # the key of a fingerprint of all else in a JSON file
_READERS = 8  # files read at a time
# A file that changed so shortly before it was read may change again within one tick of the file system's clock.
_SETTLED = 2_000_000_000  # nanoseconds


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it to ``path`` if the block ends well, else delete it.

    The file is flushed to disk before the move, so a reader sees the old file, the new one or none: never half.

    Raises:
        ClipsiftError: when it cannot be written; see :func:`writing`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # pods are all process 1
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Make one line of what a full or broken disk says to the block, which writes ``path``.

    The error of another file, which the block wanted to read, passes.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_of_writing(error, Path(path)):
            raise
        in_the_way = next((parent for parent in Path(path).parents if parent.exists() and not parent.is_dir()), None)
        reason = f"{in_the_way} is a file" if in_the_way else getattr(error, "strerror", None) or first_line(error)
        raise ClipsiftError(f"{path}: cannot be written ({reason}); mend that, the same command resumes") from error


def _is_of_writing(error: Exception, path: Path) -> bool:
    if isinstance(error, OSError):
        named = None if error.filename is None else Path(os.fsdecode(error.filename))
        return named is None or named in path.parents or named.parent == path.parent
    return "inline_container" in str(error) or "(os error" in str(error)  # torch's and safetensors' writers


def wait_for(*paths: Path, seconds: float = VISIBLE_WITHIN) -> None:
    """Until files that another rank has written can be seen here; on a network file system that may take a while.

    Raises:
        ClipsiftError: naming the file, when it does not appear.
    """
    give_up = time.monotonic() + seconds
    for path in paths:
        while not path.exists():
            if time.monotonic() > give_up:
                raise ClipsiftError(f"{path}: another rank wrote it and it is not here; give a folder all nodes share")
            time.sleep(0.1)


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_array(path: str | Path, array: np.ndarray) -> None:
    """Write ``array`` as ``.npy``, atomically; one of objects is refused with ValueError."""
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented strict JSON, atomically. NaN and infinity are refused with ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | Path, remedy: str = "delete it to have it made again") -> Any:
    """Read a JSON file, by default one of ours; a damaged one is a :class:`ClipsiftError` that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ClipsiftError(f"{path}: cannot be read as JSON ({first_line(error)}); {remedy}") from error


def write_sealed(path: str | Path, value: dict[str, Any]) -> None:
    """Like :func:`write_json`, with a fingerprint of the value in it."""
    write_json(path, value | {_SEAL: fingerprint(value)})


def read_sealed(path: str | Path) -> dict[str, Any] | None:
    """What :func:`write_sealed` wrote; None for a file that is not there, or not as it was written."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(value, dict) and value.pop(_SEAL, None) == fingerprint(value)
    return value if whole else None


def fingerprint(value: Any) -> str:
    """Hash of a plain value (numbers, strings, lists, dicts), independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]


def file_fingerprint(path: str | Path) -> str:
    """Hash of a file's content."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:FINGERPRINT_LENGTH]


def array_fingerprint(*arrays: np.ndarray) -> str:
    """Hash of the arrays' bytes, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()[:FINGERPRINT_LENGTH]


class Contents:
    """Fingerprints of content, kept in ``folder`` with size, times and inode of each file.

    A file is read when one of these is new. Only rank 0 should ask: what other nodes see of a disk may be old.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def of(self, source: str, files: Sequence[str | Path] | None = None) -> str:
        """The fingerprint of a file's content; of a folder, that of ``files``, by default of all files below it.

        Raises :class:`ClipsiftError` for what is not there or cannot be read.
        """
        contents = self.each(source, files)
        is_file = files is None and Path(source).is_file()
        return next(iter(contents.values())) if is_file else fingerprint(contents)

    def each(self, source: str, files: Sequence[str | Path] | None = None) -> dict[str, str]:
        """The fingerprint of the content of each of ``files`` (see :meth:`of`), in order, by its name below ``source``.

        Raises as :meth:`of`.
        """
        root = Path(source).resolve()
        note = self.folder / f"{fingerprint(str(root))}.json"
        known = read_json(note) if note.is_file() else {}
        if files is None:
            files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
        if not files:
            raise ClipsiftError(f"{source}: does not exist, or holds no file")
        names = [Path(path).name if path == root else str(path).removeprefix(f"{root}/") for path in files]

        def look(name: str, path: str | Path) -> tuple[list[int], str]:
            about = Path(path).stat()
            stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
            there = known.get(name)
            return stamp, there[1] if there and there[0] == stamp else file_fingerprint(path)

        try:
            with ThreadPoolExecutor(_READERS) as readers:
                looks = track(readers.map(look, names, files), "look at files", len(names), "files", brief=True)
                found = dict(zip(names, looks))
        except OSError as error:
            raise ClipsiftError(f"{source}: cannot be read ({first_line(error)})") from error
        settled = time.time_ns() - _SETTLED
        kept = {name: [stamp, content] for name, (stamp, content) in found.items() if max(stamp[1:3]) < settled}
        if kept != known:
            write_json(note, kept)
        return {name: content for name, (_, content) in found.items()}
