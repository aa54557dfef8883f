"""One pass over a tar of pairs: where each sample's image and caption lie, and what is wrong with the rest."""

from __future__ import annotations

from collections import Counter
from typing import IO

import numpy as np

from clipsift_common.data_report import DataReport
from clipsift_common.tar_samples import TarReader, TarSample, join_samples
from clipsift_common.tars import Member
from selection.samples.fields import Fields
from selection.samples.identical import identical_pictures
from selection.samples.parts import Lost, SampleParts
from selection.uids import UID_DTYPE, derive_uid, format_uids, parse_uids

ROW_DTYPE = np.dtype(
    [
        ("uid", UID_DTYPE),
        ("shard", "<u4"),  # position in the pool's list of shards
        ("image_offset", "<u8"),
        ("image_size", "<u4"),
        ("text_offset", "<u8"),
        ("text_size", "<u4"),  # of the caption, or with IN_JSON added of the json that holds it
    ]
)
IN_JSON = 1 << 31

FEATURE_TARS = "feature_tars"  # among the files of a report
NPY = "npy"  # the end of the names of features
_INCOMPLETE = ("missing_image", "missing_caption", "truncated_tar")
_NAMED = 8  # extensions in a message


def scan_tar(
    handle: IO[bytes], shard: str, expected: int | None, fields: Fields | None = None
) -> tuple[np.ndarray, DataReport]:
    """Find the whole samples of a tar.

    Args:
        handle: the open, seekable tar.
        shard: its name, for the report and for uids derived from shard and key.
        expected: how many samples the shard is said to hold, if something says so.
        fields: which members make a sample.

    Returns:
        ``(n,)`` rows of :data:`ROW_DTYPE` in tar order (``shard`` is left 0), and what was lost on the way. A tar that
        has features of samples in place of pictures (``KEY.npy``) is counted as one of ``FEATURE_TARS``, and no loss.
    """
    scan = _Scan(handle, shard, fields or Fields())
    scan.run()
    if scan.holds_features_alone():
        scan.report = DataReport(logs=False)
        scan.report.files[FEATURE_TARS] = 1
    else:
        scan.count_missing(expected)
    table = scan.table()
    for row, size, count in identical_pictures(scan.reader, table):
        uid = format_uids(table["uid"][row : row + 1])[0]
        scan.report.note("identical_image", shard, uid, f"{count:,} pictures have its {size:,} bytes", count)
    return table, scan.report


class _Scan:
    """The rows and the report of one tar."""

    def __init__(self, handle: IO[bytes], shard: str, fields: Fields) -> None:
        self.shard = shard
        self.report = DataReport(logs=False)  # many processes scan; what they find is logged where it is put together
        self.extensions, self.images = fields.extensions(), fields.image
        self.reader = TarReader(handle, self.extensions, fields.keys)
        self.parts = SampleParts(self.reader, fields)
        self.lost: dict[str, str] = {}  # key -> cause
        self.uids: list[str] = []
        self.rows: list[tuple[int, int, int, int]] = []
        self.num_features = 0  # keys that have features and no picture

    def run(self) -> None:
        report, reader = self.report, self.reader
        has_json, without_json = False, []
        for sample, is_repeated in join_samples(reader, self.parts.is_whole):
            has_json |= "json" in sample.parts
            if reader.truncated and "json" not in sample.parts and not is_repeated:
                without_json.append(sample)  # if others have one, damage took it, and the uid would be a derived one
            else:
                self._take(sample, is_repeated)
        for sample in without_json:
            self._take(sample, False, "its json was lost to damage" if has_json else "")
        for name in reader.nameless:
            report.ignore("member without a key", self.shard, name)
        if reader.trailing:
            report.ignore("trailing data", self.shard, reader.last_key, reader.trailing)

    def _take(self, sample: TarSample, is_repeated: bool, damage: str = "") -> None:
        """Use a sample or count it as lost, and what is beside it as ignored."""
        used: tuple[Member, ...] = ()
        if sample is self.reader.last_run and not self.parts.is_whole(sample):
            damage = self.reader.truncated
        try:
            if is_repeated:
                if count := self.parts.num_samples(sample):
                    raise Lost("duplicate_key", count=count)
            elif damage:
                raise Lost("truncated_tar", damage)
            else:
                used = self._use(sample)
        except Lost as lost:
            self._lose(sample, lost)
        if sample.others:
            self._ignore(sample, used)

    def _use(self, sample: TarSample) -> tuple[Member, ...]:
        """Make a row of the sample; its members."""
        image = self.parts.image(sample)
        caption, in_json = self.parts.caption(sample)
        uid = self.parts.uid(sample)
        if sample.key in self.reader.spoilt:
            raise Lost("truncated_tar", "there is damage among its members")
        if uid is None:
            uid = derive_uid(self.shard, sample.key)
            self.report.note("derived_uid", self.shard, sample.key, self.parts.why_no_uid(sample))
        self.report.samples += 1
        self.uids.append(uid)
        text_size = caption.size + (IN_JSON if in_json else 0)
        self.rows.append((image.offset_data, image.size, caption.offset_data, text_size))
        return image, caption

    def _lose(self, sample: TarSample, lost: Lost) -> None:
        has_features = any(name.rpartition(".")[2] == NPY for name in sample.others)
        has_image = sample.first(self.images) or lost.cause not in ("missing_image", "truncated_tar")
        self.num_features += has_features and not has_image
        self.report.samples += lost.count
        self.lost[sample.key] = lost.cause
        self.report.lose(lost.cause, self.shard, sample.key, lost.detail, lost.count)

    def _ignore(self, sample: TarSample, used: tuple[Member, ...]) -> None:
        """Count the members that are no part of a sample."""
        for extension, member in sample.others.items():
            kind = extension.rpartition(".")[2]
            if member in used or (not used and kind in self.extensions):
                continue
            self.report.ignore(f"{kind} member", self.shard, member.name)

    def holds_features_alone(self) -> bool:
        """Whether no key has a picture, and each has features."""
        return not self.rows and 0 < self.num_features == self.report.num_lost

    def count_missing(self, expected: int | None) -> None:
        """Count what was promised or damage took away."""
        report, reader, shard = self.report, self.reader, self.shard
        missing = self._unseen()
        if expected is not None and (reader.truncated or report.samples):
            missing = max(0, expected - report.samples)
        if reader.truncated and not missing:
            report.ignore("damage", shard, reader.last_key, reader.truncated)
        if missing > 0:
            report.samples += missing
            reason = reader.truncated or f"{expected} samples are promised"
            report.lose("truncated_tar", shard, reader.last_key, reason, count=missing)
        elif report.samples == 0:
            report.samples += expected or 1
            report.lose("empty_shard", shard, "", "no samples in the tar", count=expected or 1)

    def _unseen(self) -> int:
        """How many samples damage may have left nothing of: one for each place where it cost none that is known."""
        damages = self.reader.damages
        near = {key for damage in damages for key in (damage.before, damage.behind)}
        unseen = sum(
            damage.before != damage.behind and self.lost.keys().isdisjoint((damage.before, damage.behind))
            for damage in damages
        )
        if self.reader.is_mixed:  # the other members of a sample lie elsewhere
            unseen -= sum(cause in _INCOMPLETE for key, cause in self.lost.items() if key not in near)
        return max(0, unseen)

    def table(self) -> np.ndarray:
        table = np.zeros(len(self.rows), ROW_DTYPE)
        if self.rows:
            table["uid"] = parse_uids(self.uids)
            for column, values in zip(("image_offset", "image_size", "text_offset", "text_size"), zip(*self.rows)):
                table[column] = values
        return table[np.argsort(table["image_offset"], kind="stable")]


def count_extensions(handle: IO[bytes], fields: Fields) -> str:
    """The members of a tar: how many of each extension, the most frequent ones."""
    reader, found = TarReader(handle, (), fields.keys), Counter[str]()
    for sample in reader:
        found.update(sample.others.keys())
    more = sum(found.values()) - sum(count for _, count in found.most_common(_NAMED))
    kinds = [f"{count:,} .{extension}" for extension, count in found.most_common(_NAMED)]
    kinds += [f"{more:,} others"] if more else []
    kinds += [f"{len(reader.nameless):,} without a key"] if reader.nameless else []
    return ", ".join(kinds) or "no members"
