"""The samples of a tar: runs of members with one key, as webdataset names them. Every stage reads tars by this."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal

from clipsift_common.tars import Member, TarError, TrailingData, Window, members, next_header

Keys = Literal["first_dot", "last_dot"]

_MEMBER = {  # key and extension; the first is webdataset's
    "first_dot": re.compile(r"^((?:.*/)?[^./][^.]*)\.([^/]*)$"),
    "last_dot": re.compile(r"^((?:.*/)?[^./][^/]*)\.([^./]*)$"),
}


def split_name(name: str, keys: Keys = "first_dot") -> tuple[str, str] | None:
    """Key and extension (lower case) of a member: ``a/1.seg.PNG`` -> ``a/1``, ``seg.png``. None for one without."""
    match = _MEMBER[keys].match(name)
    return (match[1], match[2].lower()) if match else None


@dataclass(slots=True)
class TarSample:
    """The members of one sample by extension (lower case); those that nobody asked for apart."""

    key: str
    parts: dict[str, Member] = field(default_factory=dict)
    others: dict[str, Member] = field(default_factory=dict)

    def first(self, extensions: Sequence[str]) -> Member | None:
        """The member with the first of ``extensions`` that is there."""
        return next((self.parts[extension] for extension in extensions if extension in self.parts), None)


class TarReader:
    """Iterates over a tar's samples, in its order. Behind damage it looks for the next header.

    Args:
        handle: the open, seekable tar.
        wanted: the extensions of a sample's ``parts``.
        keys: where a member's key ends.

    Attributes:
        size: of the file, in bytes. A tar of 0 bytes has no samples and is not called truncated.
        truncated: why and at which offset the tar could not be read on, the first time; empty when it was not damaged
            (or not yet). Where nothing came behind, the sample that was cut in two is not given; it is ``last_run``.
        num_damages: how often it could not be read on; ``is_cut``: nothing came behind the last time.
        trailing: what lies behind the archive and is none, and at which offset; empty when nothing does.
        last_key: of the last member.
        nameless: the members without key or extension.
    """

    def __init__(self, handle: IO[bytes], wanted: Collection[str], keys: Keys = "first_dot") -> None:
        self._window, self._wanted, self._keys = Window(handle), frozenset(wanted), keys
        self.nameless: list[str] = []
        self.size = handle.seek(0, io.SEEK_END)
        self.truncated = self.trailing = ""
        self.num_damages = 0
        self.is_cut = False
        self.last_key = ""
        self.last_run: TarSample | None = None

    def __iter__(self) -> Iterator[TarSample]:
        sample: TarSample | None = None
        match_name = _MEMBER[self._keys].match
        for member in self._members():
            match = match_name(member.name)
            if not match:
                self.nameless.append(member.name)
                continue
            key, extension = match[1], match[2].lower()
            if sample is not None and (
                key != sample.key or extension in sample.parts or (sample.others and self._repeats(sample, extension))
            ):
                yield sample
                sample = None
            sample = sample or TarSample(key)
            self.last_key = key
            (sample.parts if extension in self._wanted else sample.others)[extension] = member
        if sample is not None and self.is_cut:
            self.last_run = sample
        elif sample is not None:
            yield sample

    def _repeats(self, sample: TarSample, extension: str) -> bool:
        """Whether a sample has an extension that matters already: one that is wanted, or ends in one."""
        return extension in sample.parts or (
            extension in sample.others and extension.rpartition(".")[2] in self._wanted
        )

    def clash(self, sample: TarSample, run: TarSample) -> bool:
        """Whether a run has an extension that matters and that the sample has already."""
        return any(self._repeats(sample, extension) for extension in [*run.parts, *run.others])

    def _members(self) -> Iterator[Member]:
        start: int | None = 0 if self.size else None
        while start is not None:
            try:
                yield from members(self._window, self.size, start)
                return
            except (TarError, OSError) as error:
                at = error.offset + 1 if isinstance(error, TarError) else self.size
                start = next_header(self._window, at, self.size)
                if isinstance(error, TrailingData) and start is None:
                    self.trailing = str(error)
                    return
                self._damaged(error)
                self.is_cut = start is None

    def _damaged(self, error: Exception) -> None:
        self.truncated = self.truncated or f"{error}, behind {self.last_key or 'the beginning'}"
        self.num_damages += 1

    def read(self, member: Member, limit: int | None = None) -> bytes:
        """A member's content, or the first ``limit`` bytes of it."""
        return self._window.read(member.offset_data, member.size if limit is None else min(member.size, limit))


def join_samples(reader: TarReader, is_whole: Callable[[TarSample], bool]) -> Iterator[tuple[TarSample, bool]]:
    """A tar's samples whose members lie in any order, each with whether it repeats an earlier one.

    A run that ``is_whole`` is given at once. Runs that are not are joined by key and given at the end of the tar, in
    the order in which their keys came: members sorted by kind, or keys that take turns. A run with an extension that
    its key has had is a sample of its own, a repeated one. Memory is that of the names that wait.
    """
    waiting: dict[str, TarSample] = {}
    given: set[str] = set()
    for run in reader:
        earlier = waiting.get(run.key)
        if run.key in given or (earlier and reader.clash(earlier, run)):
            yield run, True
        elif earlier:
            earlier.parts.update(run.parts)
            earlier.others.update(run.others)
        elif is_whole(run):
            given.add(run.key)
            yield run, False
        else:
            waiting[run.key] = run
    if (last := reader.last_run) and last.key in waiting:
        waiting[last.key].parts.update(last.parts)
    elif last and last.key not in given and is_whole(last):
        yield last, False  # right before the damage, and nothing of it can be missing
    yield from ((sample, False) for sample in waiting.values())
