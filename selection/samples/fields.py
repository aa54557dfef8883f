"""Which members of a tar, or columns of a parquet, make a sample: the settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from clipsift_common.errors import ClipsiftError
from clipsift_common.images import IMAGE_EXTENSIONS
from clipsift_common.tar_samples import Keys

JSON = "json:"  # before the name of a value in the sample's json
_CAPTIONS = ("txt", "json:caption", "json:text", "json:re_caption", "json:captions", "json:texts")
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad\u180e"))


@dataclass(frozen=True)
class Fields:
    """Where the picture, the caption and the uid of a sample are; of several places the first that has one counts.

    A place is an extension in lower case (``txt``: KEY.txt, or where there is none the only KEY.*.txt), or
    ``json:NAME``, a value in KEY.json. A caption there is a string, or the first of a list of strings or of MetaCLIP's
    (kind, string) pairs. A sample without a uid gets one made of its shard's name and its key.

    In a parquet with pictures a place is a column, in lower case whatever the column's, or a value in the column
    ``json``; the default is then what such files usually have.

    ``keys``: a name's key ends at the ``first_dot`` of its base name, as webdataset has it, or at the ``last_dot``, for
    names such as photo.0001.jpg.
    """

    image: list[str] = field(default_factory=lambda: list(IMAGE_EXTENSIONS))
    caption: list[str] = field(default_factory=lambda: list(_CAPTIONS))
    uid: list[str] = field(default_factory=lambda: ["json:uid"])
    keys: Keys = "first_dot"

    def __post_init__(self) -> None:
        for name in ("image", "caption", "uid"):
            for place in getattr(self, name):
                in_json = place.startswith(JSON)
                extension = place.removeprefix(JSON)
                if not extension or (name == "image" if in_json else extension[0] == "." or extension.lower() != place):
                    example = "jpg" if name == "image" else f"txt or {JSON}{name}"
                    raise ClipsiftError(f"fields.{name}: {place!r} is no place of a {name}; write it as {example}")
        if not self.image or not self.caption:
            raise ClipsiftError("fields: image and caption need a place each; leave them out for the default")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What an index depends on; empty for the default."""
        return {} if self == Fields() else self.as_dict()

    def needed(self) -> set[frozenset[str]]:
        """Groups of extensions; with one of each group a sample has all that is looked for."""
        captions = [place for place in self.caption if not place.startswith(JSON)]
        in_json = any(place.startswith(JSON) for place in [*self.uid, *(() if captions else self.caption)])
        uids = [[place] for place in self.uid if not place.startswith(JSON)]
        groups = [self.image, captions, *uids, ["json"] if in_json else []]
        return {frozenset(group) for group in groups if group}

    def extensions(self) -> set[str]:
        """Of all members that are looked at."""
        places = [*self.image, *self.caption, *self.uid]
        return {"json" if place.startswith(JSON) else place for place in places}

    def caption_in(self, document: bytes) -> str:
        """The caption of a sample whose json has it."""
        values = json.loads(document)
        caption = next(text for place in self.caption for text in captions_at(place, values) if shows(text))
        return caption.encode(errors="replace").decode()  # half of a surrogate pair is no character


def captions_at(place: str, values: Any) -> Iterator[str]:
    """The captions that a json has at ``json:NAME``; none for an extension."""
    value = values.get(place.removeprefix(JSON)) if place.startswith(JSON) and isinstance(values, dict) else None
    for item in value if isinstance(value, list) else [value]:
        text = item[1] if isinstance(item, list) and len(item) > 1 else item
        if isinstance(text, str):
            yield text


def shows(caption: str) -> bool:
    """Whether there is anything but white space of any kind, zero-width characters and byte order marks."""
    return bool(caption.translate(_INVISIBLE).strip())
