"""Files kept open because they are read again and again, as many as there is room for."""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import IO, Generic, TypeVar

from clipsift_common.errors import ClipsiftError, is_out_of_files

_MOST = 64  # per process, where a quarter of what it may open is as many

K = TypeVar("K", bound=Hashable)


class OpenFiles(Generic[K]):
    """The open file of a key, which ``opened`` opens; those that were not used for longest are closed."""

    def __init__(self, opened: Callable[[K], IO[bytes]]) -> None:
        self._opened = opened
        self._files: OrderedDict[K, IO[bytes]] = OrderedDict()

    def __getitem__(self, key: K) -> IO[bytes]:
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        try:
            handle = self._opened(key)
        except (ClipsiftError, OSError) as error:
            if not is_out_of_files(error) or not self._files:
                raise
            while self._files:  # the rest of the program has taken the room for them
                self._files.popitem()[1].close()
            handle = self._opened(key)
        self._files[key] = handle
        if len(self._files) > min(_MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4):
            self._files.popitem(last=False)[1].close()
        return handle
