"""The samples of a tar: runs of members with one key, as webdataset names them. Every stage reads tars by this."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import IO, Literal

from clipsift_common.tars import BLOCK, Member, TarError, TrailingData, Window, members, next_header

Keys = Literal["first_dot", "last_dot"]

_MEMBER = {  # key and extension; the first is webdataset's
    "first_dot": re.compile(r"^((?:.*/)?[^./][^.]*)\.([^/]*)$"),
    "last_dot": re.compile(r"^((?:.*/)?[^./][^/]*)\.([^./]*)$"),
}


def split_name(name: str, keys: Keys = "first_dot") -> tuple[str, str] | None:
    """Key and extension (lower case) of a member: ``a/1.seg.PNG`` -> ``a/1``, ``seg.png``. None for one without."""
    if keys == "first_dot" and "/" not in name:  # nearly all; a third of the time of the expression
        key, dot, extension = name.partition(".")
        return (key, extension.lower()) if key and dot else None
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
        for extension in extensions:
            if extension in self.parts:
                return self.parts[extension]
        return None


@dataclass(slots=True)
class Damage:
    """A place where a tar could not be read on, between members of these keys; nothing may be behind it."""

    before: str
    behind: str | None = None


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
        damages: the places where it could not be read on, but not the end of a file that just has no mark there.
        spoilt: keys of samples among whose members there is damage: what they hold may not be what was written.
        is_cut: nothing came behind the last damage.
        is_mixed: the members of some key do not lie side by side; :func:`join_samples` says so.
        trailing: what lies behind the archive and is none, and at which offset; empty when nothing does.
        last_key: of the last member.
        nameless: the members without key or extension.
    """

    def __init__(self, handle: IO[bytes], wanted: Collection[str], keys: Keys = "first_dot") -> None:
        self._window, self._wanted, self._keys = Window(handle), frozenset(wanted), keys
        self.nameless: list[str] = []
        self.size = handle.seek(0, io.SEEK_END)
        self.truncated = self.trailing = ""
        self.damages: list[Damage] = []
        self.spoilt: set[str] = set()
        self.is_cut = self.is_mixed = False
        self.last_key = ""
        self.last_run: TarSample | None = None
        self._last: Member | None = None  # that was read
        self._cut_key = ""  # of the member that ends after the file does

    def __iter__(self) -> Iterator[TarSample]:
        sample: TarSample | None = None
        for member in self._members():
            if (parts := split_name(member.name, self._keys)) is None:
                self.nameless.append(member.name)
                continue
            key, extension = parts
            if sample is not None and (
                key != sample.key or extension in sample.parts or (sample.others and self._repeats(sample, extension))
            ):
                yield sample
                sample = None
            sample = sample or TarSample(key)
            self.last_key, self._last = key, member
            (sample.parts if extension in self._wanted else sample.others)[extension] = member
        if sample is not None and self.is_cut and self._cut_key in ("", sample.key):
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
                yield from self._behind_damage(start) if start else members(self._window, self.size)
                return
            except (TarError, OSError) as error:
                start = self._next_header(error)
                if isinstance(error, TrailingData) and start is None:
                    self.trailing = str(error)
                    return
                self._damaged(error, start)

    def _behind_damage(self, start: int) -> Iterator[Member]:
        for member in members(self._window, self.size, start):
            if self.damages and self.damages[-1].behind is None:
                self.damages[-1].behind = key = self._key(member.name)
                if key == self.damages[-1].before:
                    self.spoilt.add(key)
            yield member

    def _next_header(self, error: TarError | OSError) -> int | None:
        """Where reading can go on: where bytes are gone, already within what the last member was to hold."""
        if isinstance(error, OSError):
            return None
        within, found = self._may_hold_headers(error.offset), None
        if within is not None:
            found = next_header(self._window, within, self.size)
        if found is None or found == error.offset:
            found = next_header(self._window, error.offset + 1, self.size)
        if within is not None and found is not None and (found < error.offset or (found - error.offset) % BLOCK):
            self.spoilt.add(self.last_key)  # bytes are gone or too many, where only this member's should be
        return found

    def _may_hold_headers(self, end: int) -> int | None:
        """Where the last member's bytes begin, if it ends where damage was found and is none in which tars may be."""
        last = self._last
        parts = split_name(last.name, self._keys) if last else None
        if last is None or parts is None or parts[1] not in self._wanted:
            return None
        return last.offset_data if last.offset_data + -(-last.size // BLOCK) * BLOCK == end else None

    def _damaged(self, error: TarError | OSError, start: int | None) -> None:
        self.truncated = self.truncated or f"{error}, behind {self.last_key or 'the beginning'}"
        self.is_cut = start is None
        cut = self._cut_key = self._key(error.name) if isinstance(error, TarError) and error.name else ""
        if isinstance(error, TarError) and error.offset >= self.size:
            return
        if self.damages and self.damages[-1].behind is None:
            return  # nothing lies between two places
        self.damages.append(Damage(cut or self.last_key))

    def _key(self, name: str) -> str:
        return (split_name(name, self._keys) or (name,))[0]

    def read(self, member: Member, limit: int | None = None) -> bytes:
        """A member's content, or the first ``limit`` bytes of it."""
        return self._window.read(member.offset_data, member.size if limit is None else min(member.size, limit))


def join_samples(reader: TarReader, is_whole: Callable[[TarSample], bool]) -> Iterator[tuple[TarSample, bool]]:
    """A tar's samples whose members lie in any order, each with whether it repeats an earlier one.

    A run that ``is_whole`` is given at once. Runs that are not are joined by key and given at the end of the tar, in
    the order in which their keys came: members sorted by kind, or keys that take turns. A run with an extension that
    its key has had is a sample of its own, a repeated one. The sample that was cut in two comes last, without what lies
    behind the cut. Memory is that of the names that wait.
    """
    waiting: dict[str, TarSample] = {}
    given: set[str] = set()
    for run in chain(reader, _last_run(reader)):
        earlier = waiting.get(run.key)
        if run.key in given or (earlier and reader.clash(earlier, run)):
            yield run, True
        elif earlier:
            reader.is_mixed = True
            earlier.parts.update(run.parts)
            earlier.others.update(run.others)
        elif is_whole(run):
            given.add(run.key)
            yield run, False
        else:
            waiting[run.key] = run
    yield from ((sample, False) for sample in waiting.values())


def _last_run(reader: TarReader) -> Iterator[TarSample]:
    if reader.last_run:
        yield reader.last_run
