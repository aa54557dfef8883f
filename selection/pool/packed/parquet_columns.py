"""Which columns of a parquet file are the pictures, the captions and the names of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError
from clipsift_common.images import IMAGE_EXTENSIONS
from selection.samples.fields import JSON, Fields

# Where the parts of a sample are when the fields do not say it. Names are compared without case.
IMAGE_COLUMNS = ("image", *IMAGE_EXTENSIONS, "img", "image_bytes", "image_data", "picture", "photo")
CAPTION_COLUMNS = ("text", "caption", "txt", "captions", "re_caption", "alt_text", "alt")
UID_COLUMN = "uid"
KEY_COLUMNS = ("key", "__key__")
JSON_COLUMN = "json"  # of a sample, where the Hub has made parquet files of tars
STATUS, SUCCESS = "status", "success"  # img2dataset has a row for each address, also for those that gave no picture


@dataclass(frozen=True)
class Columns:
    """Where the parts of a sample are: columns, and for captions and uids values in the json column (``json:NAME``).

    Of several places the first that has something counts, row by row. ``key``, ``json`` and ``status`` are "" where
    there is no such column.
    """

    images: list[str]
    captions: list[str]
    uids: list[str]
    key: str
    json: str
    status: str

    def __str__(self) -> str:
        images, captions = " or ".join(self.images), " or ".join(self.captions)
        uids = f"uids from {' or '.join(self.uids)}" if self.uids else f"uids derived from {self.key or 'the row'}"
        return f"pictures from column {images}, captions from {captions}, {uids}"

    def names(self) -> list[str]:
        """The columns that are read."""
        places = [*self.images, *self.captions, *self.uids, self.key, self.json, self.status]
        return [*dict.fromkeys(place for place in places if place and not place.startswith(JSON))]

    def texts(self) -> list[str]:
        """The columns of captions."""
        return [place for place in self.captions if not place.startswith(JSON)]


def find_columns(schema: pa.Schema, url: str, fields: Fields) -> Columns:
    """The columns of a sample: those that the fields name, by default the usual ones.

    Raises:
        ClipsiftError: naming the columns that there are, when there are no pictures or no captions among them, or no
            uids where the fields name a place of them.
    """
    default = Fields()
    json_column = _first(schema, JSON_COLUMN)
    images = IMAGE_COLUMNS if fields.image == default.image else tuple(fields.image)
    in_json = tuple(place for place in fields.caption if place.startswith(JSON))
    captions = (*CAPTION_COLUMNS, *in_json) if fields.caption == default.caption else tuple(fields.caption)
    uids = (UID_COLUMN, *fields.uid) if fields.uid == default.uid else tuple(fields.uid)
    found = {
        "image": _there(schema, images, _is_image),
        "caption": _there(schema, captions, _is_caption),
        "uid": _there(schema, uids, lambda _: True),
    }
    needed = {"image": ("pictures", images), "caption": ("captions", captions)}
    needed |= {"uid": ("uids", uids)} if fields.uid and fields.uid != default.uid else {}
    for field, (what, places) in needed.items():
        if not found[field]:
            there = ", ".join(f"{column.name} ({column.type})" for column in schema)
            names = ", ".join(places)
            raise ClipsiftError(f"{url}: no column of {what} ({names}); it has {there}; name one in fields.{field}")
    key = next((name for column in KEY_COLUMNS if (name := _first(schema, column))), "")
    return Columns(found["image"], found["caption"], found["uid"], key, json_column, _first(schema, STATUS))


def holds_pictures(schema: pa.Schema, fields: Fields) -> bool:
    """Whether there is a column of pictures."""
    places = IMAGE_COLUMNS if fields.image == Fields().image else fields.image
    return bool(_there(schema, places, _is_image))


def columns_of(url: str) -> pa.Schema | None:
    """The columns of a parquet file; None when it is damaged or none."""
    try:
        with fsspec.open(url, "rb") as handle:
            return pq.read_schema(handle)
    except (OSError, pa.ArrowException):
        return None


def kind_of(schema: pa.Schema | None, fields: Fields) -> Literal["pictures", "uids", "other", "damaged"]:
    """What a parquet file holds, by its columns: the first of these that fits."""
    if schema is None:
        return "damaged"
    return "pictures" if holds_pictures(schema, fields) else "uids" if UID_COLUMN in schema.names else "other"


def _first(schema: pa.Schema, name: str, fits: Callable[[pa.DataType], bool] = lambda _: True) -> str:
    """The first column called so; "" without one."""
    return next((column.name for column in schema if column.name.lower() == name and fits(column.type)), "")


def _there(schema: pa.Schema, places: Sequence[str], fits: Callable[[pa.DataType], bool]) -> list[str]:
    """Those of the places that can be in a file of these columns, by the columns' own names."""
    found = (
        (place if _may_hold(schema, place.removeprefix(JSON)) else "")
        if place.startswith(JSON)
        else _first(schema, place, fits)
        for place in places
    )
    return [place for place in found if place]


def _may_hold(schema: pa.Schema, name: str) -> bool:
    """Whether the json of a sample can have a value called ``name``: a text can, a struct tells."""
    column = _first(schema, JSON_COLUMN)
    kind = schema.field(column).type if column else None
    return kind is not None and (not pa.types.is_struct(kind) or kind.get_field_index(name) >= 0)


def _is_image(kind: pa.DataType) -> bool:
    """Bytes, or what the Hub's library makes of a picture: a struct of bytes and path."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_caption(kind: pa.DataType) -> bool:
    """A text, perhaps as bytes or in a dictionary, or several texts for one picture."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return _is_text(kind) or _is_bytes(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
