"""What of a sample's members is its picture, its caption and its uid."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from clipsift_common.tar_samples import TarReader, TarSample
from clipsift_common.tars import Member
from selection.samples.fields import JSON, Fields, captions_at, shows
from selection.uids import is_uid

_MAX_TEXT = 1 << 20  # bytes; a caption or json is a few kB, and no more of one is looked at
_LARGEST = (1 << 31) - 1  # bytes of a picture or caption, for which the index has room
_READ_JSON = json.JSONDecoder().raw_decode
_UUID = 36  # characters with its dashes


class Lost(Exception):
    """Members of which no sample can be made; ``count``: of how many samples they are."""

    def __init__(self, cause: str, detail: str = "", count: int = 1) -> None:
        super().__init__(cause)
        self.cause, self.detail, self.count = cause, detail, count


class SampleParts:
    """Finds the parts of a tar's samples where :class:`Fields` say they are. What cannot be used raises Lost."""

    def __init__(self, reader: TarReader, fields: Fields) -> None:
        self._reader, self._fields = reader, fields
        self._needed, self._extensions = fields.needed(), fields.extensions()
        self._caption, self._uid = _sources(fields.caption), _sources(fields.uid)
        self._read_last: TarSample | None = None
        self._document_read: Any = None  # the json of the sample that was read last

    def is_whole(self, sample: TarSample) -> bool:
        """Whether nothing that is read of a sample can still come."""
        for extensions in self._needed:  # noqa: SIM110 - asked for every sample of every pool, where all() costs time
            if extensions.isdisjoint(sample.parts):
                return False
        return True

    def num_samples(self, run: TarSample) -> int:
        """Of how many samples, by their pictures, the members of a run are; 0 when none of them is read."""
        pictures = 0 if run.parts else len(ending_in(run, self._fields.image))
        return pictures or int(bool(run.parts or ending_in(run, self._extensions)))

    def image(self, sample: TarSample) -> Member:
        """The picture."""
        image = sample.first(self._fields.image)
        if image is None:
            fitting = ending_in(sample, self._fields.image)
            if len(fitting) > 1 and not sample.parts:  # nothing has the key alone before its extension
                detail = f"{_listed(fitting)} have this key; set fields.keys to last_dot"
                raise Lost("dotted_keys", detail, len(fitting))
            image = _only(fitting, "image")
        if image is None:
            raise Lost("missing_image", _contents(sample))
        if image.size == 0:
            raise Lost("broken_image", "0 bytes")
        if image.size > _LARGEST:
            raise Lost("image_too_large", f"{image.size:,} bytes")
        return image

    def caption(self, sample: TarSample) -> tuple[Member, bool]:
        """The member with the caption, and whether that is the json: the first that shows anything."""
        why = ""
        for place, extension, in_json in self._caption:
            member = sample.parts.get(extension) or _compound(sample, extension, "caption")
            if member is None or member.size > _LARGEST:
                continue
            if in_json:
                if any(shows(text) for text in captions_at(place, self._document(sample))):
                    return member, True
            elif self._is_visible(member):
                return member, False
            else:
                why = f"its {extension} shows nothing"
        raise Lost("missing_caption", why or _contents(sample))

    def uid(self, sample: TarSample) -> str | None:
        """The uid, if the sample has one."""
        for place, extension, in_json in self._uid:
            if in_json:
                document = self._document(sample)
                uid = document.get(place.removeprefix(JSON)) if isinstance(document, dict) else None
            else:
                member = sample.parts.get(extension) or _compound(sample, extension, "uid")
                uid = self._reader.read(member, _MAX_TEXT).decode(errors="replace").strip() if member else None
            if uid is None:
                continue
            bare = uid.replace("-", "") if isinstance(uid, str) and len(uid) == _UUID else uid
            if not is_uid(bare):
                raise Lost("bad_uid", repr(uid)[:80])
            return str(bare)
        return None

    def why_no_uid(self, sample: TarSample) -> str:
        """What :meth:`uid` found instead."""
        document = self._document(sample)
        if document is None or isinstance(document, dict):
            return "it has none"
        return f"its json is a {type(document).__name__}"

    def _is_visible(self, caption: Member) -> bool:
        text = self._reader.read(caption, _MAX_TEXT)
        return text[:1].isalnum() or shows(text.decode(errors="replace"))  # nearly all begin with a letter

    def _document(self, sample: TarSample) -> Any:
        """What the sample's json says; None when there is none."""
        if self._read_last is not sample:
            member = sample.parts.get("json") or _compound(sample, "json", "json")
            try:
                if member and member.size > _MAX_TEXT:
                    raise ValueError(f"{member.size} bytes")
                self._document_read = _parse(self._reader.read(member)) if member else None
            except (ValueError, RecursionError) as error:
                raise Lost("broken_json", str(error)) from error
            self._read_last = sample
        return self._document_read


def _parse(document: bytes) -> Any:
    """What json.loads gives, which takes as long for guessing the encoding and looking for blanks as for reading."""
    if document[:2] == b'{"':
        text = document.decode("utf-8", "surrogatepass")
        value, end = _READ_JSON(text)
        if end == len(text):
            return value
    return json.loads(document)


def _sources(places: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Of each place: itself, the extension of its member, and whether that is the json."""
    in_json = [place.startswith(JSON) for place in places]
    return [(place, "json" if is_json else place, is_json) for place, is_json in zip(places, in_json)]


def _compound(sample: TarSample, extension: str, what: str) -> Member | None:
    """The only member whose extension ends in ``extension``."""
    return _only(ending_in(sample, [extension]), what) if sample.others else None


def ending_in(sample: TarSample, extensions: Collection[str]) -> list[Member]:
    """The members whose extensions end in one of these: ``input.jpg`` in ``jpg``."""
    return [member for name, member in sample.others.items() if name.rpartition(".")[2] in extensions]


def _only(fitting: Sequence[Member], what: str) -> Member | None:
    if len(fitting) > 1:
        raise Lost(f"several_{what}s", f"{_listed(fitting)}; say in fields.{what} which")
    return fitting[0] if fitting else None


def _listed(members: Sequence[Member]) -> str:
    return ", ".join(member.name for member in members[:2]) + (f" and {len(members) - 2} more" if members[2:] else "")


def _contents(sample: TarSample) -> str:
    """Which members a sample has, a few words."""
    extensions = [*sample.parts, *sample.others]
    return f"it has {', '.join(extensions[:4])}" + (" ..." if extensions[4:] else "")
