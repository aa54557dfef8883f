"""Which columns of a parquet file are the pictures, the captions and the names of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from clipsift_common.errors import ClipsiftError
from clipsift_common.images import IMAGE_EXTENSIONS

# Names are compared without case; the first that is there is taken.
IMAGE_COLUMNS = ("image", *IMAGE_EXTENSIONS, "img", "image_bytes", "image_data", "picture", "photo")
CAPTION_COLUMNS = ("text", "caption", "txt", "captions", "re_caption", "alt_text", "alt")
KEY_COLUMNS = ("key", "__key__")
UID_COLUMNS = ("uid",)
JSON_COLUMNS = ("json",)  # of a sample, where the Hub has made parquet files of tars
STATUS, SUCCESS = "status", "success"  # img2dataset has a row for each address, also for those that gave no picture


@dataclass(frozen=True)
class Columns:
    """The names of the columns that a sample is made of; "" where there is none."""

    image: str
    caption: str
    uid: str
    key: str
    json: str
    status: str

    def __str__(self) -> str:
        uid = self.uid or self.json
        uids = f"uids from {uid}" if uid else f"uids derived from {self.key or 'the row'}"
        return f"pictures from column {self.image}, captions from {self.caption}, {uids}"

    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in astuple(self) if name]


def find_columns(schema: pa.Schema, url: str) -> Columns:
    """The columns of a sample.

    Raises:
        ClipsiftError: naming the columns that there are, when there are no pictures or no captions among them.
    """
    image, caption = _first(schema, IMAGE_COLUMNS, _is_image), _first(schema, CAPTION_COLUMNS, _is_caption)
    for found, what, names in ((image, "pictures", IMAGE_COLUMNS), (caption, "captions", CAPTION_COLUMNS)):
        if not found:
            there = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise ClipsiftError(f"{url}: no column of {what} ({', '.join(names)}); it has {there}; rename one")
    others = (_first(schema, names, lambda _: True) for names in (UID_COLUMNS, KEY_COLUMNS, JSON_COLUMNS, (STATUS,)))
    return Columns(image, caption, *others)


def holds_pictures(schema: pa.Schema) -> bool:
    """Whether there is a column of pictures."""
    return bool(_first(schema, IMAGE_COLUMNS, _is_image))


def columns_of(url: str) -> pa.Schema | None:
    """The columns of a parquet file; None when it is damaged or none."""
    try:
        with fsspec.open(url, "rb") as handle:
            return pq.read_schema(handle)
    except (OSError, pa.ArrowException):
        return None


def kind_of(schema: pa.Schema | None) -> Literal["pictures", "uids", "other", "damaged"]:
    """What a parquet file holds, by its columns: the first of these that fits."""
    if schema is None:
        return "damaged"
    return "pictures" if holds_pictures(schema) else "uids" if UID_COLUMNS[0] in schema.names else "other"


def _first(schema: pa.Schema, names: Sequence[str], fits: Callable[[pa.DataType], bool]) -> str:
    there = {field.name.lower(): field.name for field in reversed(list(schema)) if fits(field.type)}
    return next((there[name] for name in names if name in there), "")


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
