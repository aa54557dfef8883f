"""The evaluation sets from the Hugging Face Hub, in the layout that DataComp's download script leaves."""

from __future__ import annotations

import fcntl
import logging
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import write_json
from clipsift_common.progress import Progress
from evaluation.data.hub import HubFile, Repository, Unreachable, content_hash, fetch, open_repository
from evaluation.data.layout import MANIFEST_NAME, belongs, check, expected_files, repository_name
from evaluation.tasks import Task, select_tasks

logger = logging.getLogger("clipsift")

LOCK_NAME = ".download.lock"
MEGABYTE = 10**6


def download(tasks: Sequence[str] | None, folder: str | Path, endpoint: str | None = None, threads: int = 8) -> None:
    """Fetch tasks into ``folder``, resuming where an earlier call stopped; what is there already is not fetched.

    Files that another program has fetched are compared with the hub's digests and kept. Each task's folder gets a
    ``manifest.json`` (sizes and SHA-256) when it is complete; a folder with one is not asked about again.

    Args:
        tasks: keys, names of groups, globs; None: all.
        endpoint: address of the hub; None: ``HF_ENDPOINT``, or the public one. Without a connection, what the hub's
            cache on this machine holds is taken.
        threads: files fetched at once.

    Raises:
        ClipsiftError: naming the files that could not be fetched, after all others are.
    """
    folder, chosen = Path(folder), select_tasks(tasks or ["*"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / LOCK_NAME):
            todo = [task for task in chosen if not _is_complete(folder, task)]
            failures = _Download(folder, endpoint, threads).run(todo) if todo else []
    except OSError as error:
        raise ClipsiftError(f"evaluation sets: {error.filename or folder}: {error.strerror}") from error
    if failures:
        raise ClipsiftError(
            f"evaluation sets: {len(failures)} missing in {folder}: {'; '.join(failures)}; start again to resume"
        )


def _is_complete(folder: Path, task: Task) -> bool:
    return (folder / task.folder / MANIFEST_NAME).is_file() and not check(folder, [task])


class _Download:
    """One call's work: list the repositories, fetch their files, note what is complete."""

    def __init__(self, folder: Path, endpoint: str | None, threads: int) -> None:
        self.folder, self.endpoint, self.threads = folder, endpoint, threads
        self.failures: list[str] = []
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, tasks: Sequence[Task]) -> list[str]:
        """What could not be fetched, one line each."""
        with ThreadPoolExecutor(self.threads) as pool:
            try:
                plans = [(task, plan) for task, plan in zip(tasks, pool.map(self._plan, tasks)) if plan is not None]
                self._start_progress(plans)
                jobs = [
                    (task, plan, [pool.submit(self._obtain, task, plan, file) for file in plan.files.values()])
                    for task, plan in plans
                ]
                for task, plan, futures in jobs:
                    self._complete(task, plan, futures)
                self.progress.close()
            except BaseException:
                self._stopped = True  # the threads end at their next piece
                pool.shutdown(cancel_futures=True)
                raise
        return self.failures

    def _plan(self, task: Task) -> Repository | None:
        """The repository with the files that belong to the task; None, and a failure, if some are missing."""
        folder, required = self.folder / task.folder, expected_files(task)
        try:
            plan = open_repository(repository_name(task), required[0], partial(belongs, task), self.endpoint)
        except Unreachable as error:
            if problems := check(self.folder, [task]):
                self._fail(f"{'; '.join(problems)} ({error})")
            else:
                logger.warning("%s: %s is taken as it is: %s", task.name, folder, error)
            return None
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        absent = [name for name in required if name not in plan.files]
        for name in absent:
            self._fail(f"{plan.name}/{name}: is not in the repository")
        return None if absent else plan

    def _start_progress(self, plans: Sequence[tuple[Task, Repository]]) -> None:
        files = [
            (self.folder / task.folder / file.name, file.size) for task, plan in plans for file in plan.files.values()
        ]
        to_come = sum(size for path, size in files if not path.exists())
        free = shutil.disk_usage(self.folder).free
        if to_come > free:
            raise ClipsiftError(f"{self.folder}: {to_come / 1e9:.1f} GB are to come, {free / 1e9:.1f} GB are free")
        self.progress = Progress("download", sum(size for _, size in files) // MEGABYTE, "MB")
        self._bytes = 0

    def _advance(self, size: int) -> None:
        with self._lock:
            if self._stopped:
                raise ClipsiftError("stopped")
            self._bytes += size
            self.progress.advance(self._bytes // MEGABYTE - self.progress.done)

    def _obtain(self, task: Task, plan: Repository, file: HubFile) -> str | None:
        """SHA-256 of a file that is in place now; None, and a failure, if it could not be fetched."""
        path = self.folder / task.folder / file.name
        try:
            if (there := content_hash(path, file)) is not None:
                self._advance(file.size)
                return there
            return fetch(plan, file, path, self._advance, self.endpoint)
        except (ClipsiftError, OSError) as error:
            self._fail(str(error))
            return None

    def _complete(self, task: Task, plan: Repository, futures: Sequence[Future[str | None]]) -> None:
        """Write the manifest, last of all, if all files are there and no shard is missing."""
        hashes = [future.result() for future in futures]
        if None in hashes:
            return
        if problems := check(self.folder, [task]):
            for problem in problems:
                self._fail(problem)
            return
        sizes = [file.size for file in plan.files.values()]
        files = {name: {"size": size, "sha256": found} for name, size, found in zip(plan.files, sizes, hashes)}
        note = {"repository": plan.name, "revision": plan.revision, "files": files}
        for leftover in (self.folder / task.folder).rglob(".*.part"):  # of another version of a file
            leftover.unlink()
        write_json(self.folder / task.folder / MANIFEST_NAME, note)

    def _fail(self, reason: str) -> None:
        with self._lock:
            self.failures.append(reason)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among all processes, on this machine or on a file system that passes locks on."""
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("download: another process is fetching into %s; waiting for it", path.parent)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
