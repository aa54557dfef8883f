"""The samples of a tar: runs of members with one key, as webdataset names them. Every stage reads tars by this."""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from clipsift_common.tars import Member, TarError, Window, members

_MEMBER = re.compile(r"^((?:.*/)?[^./][^.]*)\.([^/]*)$")  # webdataset's key and extension


@dataclass
class TarSample:
    """The members of one sample by extension (lower case); those that nobody asked for apart."""

    key: str
    parts: dict[str, Member] = field(default_factory=dict)
    others: dict[str, Member] = field(default_factory=dict)

    def first(self, extensions: Sequence[str]) -> Member | None:
        """The member with the first of ``extensions`` that is there."""
        return next((self.parts[extension] for extension in extensions if extension in self.parts), None)


class TarReader:
    """Iterates over a tar's samples, in its order. Stops where the tar stops being readable.

    Args:
        handle: the open, seekable tar.
        wanted: the extensions of a sample's ``parts``.

    Attributes:
        size: of the file, in bytes. A tar of 0 bytes has no samples and is not called truncated.
        truncated: why and at which offset the tar ended early; empty when it did not (or not yet). The sample that a
            truncation cut in two is not given.
        last_key: of the last member.
    """

    def __init__(self, handle: IO[bytes], wanted: Collection[str]) -> None:
        self._window, self._wanted = Window(handle), frozenset(wanted)
        self.size = handle.seek(0, io.SEEK_END)
        self.truncated = ""
        self.last_key = ""

    def __iter__(self) -> Iterator[TarSample]:
        sample: TarSample | None = None
        for member in self._members():
            match = _MEMBER.match(member.name)
            if not match:
                continue
            key, extension = match[1], match[2].lower()
            if sample is not None and (key != sample.key or extension in sample.parts):
                yield sample
                sample = None
            sample = sample or TarSample(key)
            self.last_key = key
            (sample.parts if extension in self._wanted else sample.others)[extension] = member
        if sample is not None and not self.truncated:
            yield sample

    def _members(self) -> Iterator[Member]:
        try:
            if self.size:
                yield from members(self._window, self.size)
        except (TarError, OSError) as error:
            self.truncated = str(error)

    def read(self, member: Member, limit: int | None = None) -> bytes:
        """A member's content, or the first ``limit`` bytes of it."""
        return self._window.read(member.offset_data, member.size if limit is None else min(member.size, limit))
