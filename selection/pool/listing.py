"""All files below a folder, on a disk or behind an fsspec address, in one walk."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field

import fsspec
from fsspec.implementations.local import LocalFileSystem

from clipsift_common.errors import ClipsiftError, first_line
from selection.pool.remote import patiently


@dataclass
class Listing:
    """What lies below a folder, by paths relative to it; a folder that was not entered ends in ``/``.

    Attributes:
        files: path -> bytes, None where the listing does not say.
        not_entered: path -> kind of what is left out (see :mod:`selection.pool.survey`) that the walk found.
    """

    files: dict[str, int | None] = field(default_factory=dict)
    not_entered: dict[str, str] = field(default_factory=dict)


def list_files(fs: fsspec.AbstractFileSystem, root: str) -> Listing:
    """The files below ``root``, links to folders included.

    Raises:
        ClipsiftError: when ``root`` cannot be listed.
    """
    if isinstance(fs, LocalFileSystem):
        return _Walk(root).listing
    found = patiently(lambda: fs.find(root, detail=True), root)
    start = len(root.rstrip("/")) + 1
    files = {path[start:]: info.get("size") for path, info in found.items() if info.get("type") != "directory"}
    return Listing({path: size for path, size in files.items() if path and not path.endswith("/")})


class _Walk:
    """A walk over a disk. Folders that a link leads to come after all others, so that each is met by its own path.

    No file is asked for its size: that is a request each on a network file system.
    """

    def __init__(self, root: str) -> None:
        self.root, self.listing = root, Listing()
        self._real = os.path.realpath(root)
        self._folders, self._links = [""], list[str]()
        self._seen: set[tuple[int, int]] = set()
        while self._folders or self._links:
            if self._folders:
                self._enter(self._folders.pop())
            else:
                self._follow(heapq.heappop(self._links))

    def _enter(self, folder: str) -> None:
        try:
            about = os.stat(self._at(folder))
            if (about.st_dev, about.st_ino) in self._seen:
                self.listing.not_entered[folder] = "repeated_folder"
                return
            self._seen.add((about.st_dev, about.st_ino))
            entries = sorted(os.scandir(self._at(folder)), key=lambda entry: entry.name)
        except OSError as error:
            if not folder:
                raise ClipsiftError(f"pool: {self.root} cannot be listed ({first_line(error)})") from error
            self.listing.not_entered[folder] = "unreadable_folder"
            return
        for entry in entries:
            self._sort(entry, folder + entry.name)

    def _sort(self, entry: os.DirEntry[str], path: str) -> None:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:  # a link to itself, or to where nobody may look
            is_folder = is_file = False
        if is_file:
            self.listing.files[path] = None
        elif not is_folder:
            self.listing.not_entered[path] = "broken_link" if entry.is_symlink() else "other_file"
        elif entry.name.startswith("."):
            self.listing.not_entered[f"{path}/"] = "hidden"
        elif entry.is_symlink():
            heapq.heappush(self._links, f"{path}/")
        else:
            self._folders.append(f"{path}/")

    def _follow(self, folder: str) -> None:
        target = os.path.realpath(self._at(folder))
        here = os.path.realpath(os.path.dirname(self._at(folder).rstrip("/")))
        if any(f"{place}/".startswith(f"{target.rstrip('/')}/") for place in (here, self._real)):
            self.listing.not_entered[folder] = "repeated_folder"  # a loop
        else:
            self._enter(folder)

    def _at(self, path: str) -> str:
        return os.path.join(self.root, path)
