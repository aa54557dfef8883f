"""One pass over a tar of pairs: where each sample's image and caption lie, and what is wrong with the rest."""

from __future__ import annotations

import json
from typing import IO

import numpy as np

from clipsift_common.data_report import DataReport
from clipsift_common.images import IMAGE_EXTENSIONS
from clipsift_common.tar_samples import TarReader, TarSample, join_samples
from selection.pool.location import Shard
from selection.uids import UID_DTYPE, derive_uid, is_uid, parse_uids

ROW_DTYPE = np.dtype(
    [
        ("uid", UID_DTYPE),
        ("shard", "<u4"),  # position in the pool's list of shards
        ("image_offset", "<u8"),
        ("image_size", "<u4"),
        ("text_offset", "<u8"),
        ("text_size", "<u4"),
    ]
)

_IMAGES = frozenset(IMAGE_EXTENSIONS)
_INVISIBLE = dict.fromkeys(map(ord, "\ufeff\u200b\u200c\u200d\u200e\u200f\u2060\u00ad\u180e"))
_MAX_JSON = 1 << 20  # a sample's json is a few kB; a larger one is not read
PARTS = (*IMAGE_EXTENSIONS, "txt", "json")


def scan_tar(handle: IO[bytes], shard: Shard, expected: int | None) -> tuple[np.ndarray, DataReport]:
    """Find the whole samples of a tar.

    Args:
        handle: the open, seekable tar.
        shard: for names in the report and for uids derived from shard and key.
        expected: how many samples the shard is said to hold, if something says so.

    Returns:
        ``(n,)`` rows of :data:`ROW_DTYPE` in tar order (``shard`` is left 0), and what was lost on the way.
    """
    report = DataReport()
    rows, uids, have_json = [], [], False
    reader = TarReader(handle, PARTS)
    for sample, is_repeated in join_samples(reader, is_whole):
        for extension, member in sample.others.items():
            report.ignore(f"{extension} member", shard.name, member.name)
        if is_repeated and not sample.parts:
            continue
        report.samples += 1
        have_json |= "json" in sample.parts
        if is_repeated:
            report.lose("duplicate_key", shard.name, sample.key)
        elif reader.truncated and have_json and "json" not in sample.parts:  # another uid would be derived for it
            report.lose("truncated_tar", shard.name, sample.key, "its json lies behind the cut")
        elif (row := _whole(reader, sample, shard, report)) is not None:
            uids.append(row[0])
            rows.append(row[1:])
    if reader.trailing:
        report.ignore("trailing data", shard.name, reader.last_key, reader.trailing)
    _count_missing(reader, expected, shard, report)
    table = np.zeros(len(rows), ROW_DTYPE)
    if rows:
        table["uid"] = parse_uids(uids)
        for column, values in zip(("image_offset", "image_size", "text_offset", "text_size"), zip(*rows)):
            table[column] = values
    return table[np.argsort(table["image_offset"], kind="stable")], report


def is_whole(sample: TarSample) -> bool:
    """Whether nothing that is read of a sample can still come."""
    parts = sample.parts
    return "txt" in parts and "json" in parts and not _IMAGES.isdisjoint(parts)


def _count_missing(reader: TarReader, expected: int | None, shard: Shard, report: DataReport) -> None:
    beside = sum(report.lost[cause] for cause in ("missing_image", "missing_caption", "truncated_tar"))
    missing = max(reader.num_damages - beside, int(reader.is_cut))
    if reader.truncated or report.samples:
        missing = max(missing, (expected or 0) - report.samples)
    if reader.truncated and not missing:
        report.ignore("damage", shard.name, reader.last_key, reader.truncated)
    if missing > 0:
        report.samples += missing
        reason = reader.truncated or f"{expected} samples are promised"
        report.lose("truncated_tar", shard.name, reader.last_key, reason, count=missing)
    elif report.samples == 0:
        report.samples += expected or 1
        report.lose("empty_shard", shard.name, "", "no samples in the tar", count=expected or 1)


def _whole(reader: TarReader, sample: TarSample, shard: Shard, report: DataReport) -> tuple | None:
    """(uid, image offset, image size, text offset, text size), or None after counting why not."""
    image = sample.first(IMAGE_EXTENSIONS)
    text = sample.parts.get("txt")
    if image is None:
        report.lose("missing_image", shard.name, sample.key)
        return None
    if image.size == 0:
        report.lose("broken_image", shard.name, sample.key, "0 bytes")
        return None
    if text is None or _is_blank(reader.read(text, _MAX_JSON)):
        report.lose("missing_caption", shard.name, sample.key)
        return None
    uid = _uid(reader, sample, shard, report)
    return None if uid is None else (uid, image.offset_data, image.size, text.offset_data, text.size)


def _is_blank(caption: bytes) -> bool:
    """Whether a caption shows nothing: white space of any kind, zero-width characters, a byte order mark."""
    if caption[:1].isalnum():  # nearly all
        return False
    text = caption.decode("utf-8", errors="replace")
    return not text.translate(_INVISIBLE).strip()


def _uid(reader: TarReader, sample: TarSample, shard: Shard, report: DataReport) -> str | None:
    member = sample.parts.get("json")
    if member is None:
        return derive_uid(shard.name, sample.key)
    try:
        if member.size > _MAX_JSON:
            raise ValueError(f"{member.size} bytes")
        values = json.loads(reader.read(member))
        uid = values.get("uid") if isinstance(values, dict) else None
    except (ValueError, RecursionError) as error:
        report.lose("broken_json", shard.name, sample.key, str(error))
        return None
    if uid is None:
        return derive_uid(shard.name, sample.key)
    if not is_uid(uid):
        report.lose("bad_uid", shard.name, sample.key, repr(uid)[:80])
        return None
    return str(uid)
