"""Damaged shards: every sample that is used is one that was written, and the others are counted.

``tarfile`` reads the same bytes beside us; with ``ignore_zeros`` it looks for the next header behind what is none.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from helpers.mutations import NUM_WAYS, Mutation, mutate, outcome, strangers
from helpers.pools import sample
from helpers.tars import Members, write_tar
from selection.pool.index import PoolIndex, Sample
from selection.pool.location import Pool
from selection.uids import parse_uids

pytestmark = pytest.mark.slow

NUM = 12
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "x" * 110  # a name that needs a header of its own

JSON_BEHIND = 4 * 512  # a json, its header and a name's: behind the caption, as written here

Found = dict[str, dict[str, bytes]]  # by key: members by extension


def _written(long: bool) -> Members:
    keys = [f"{LONG if long else ''}{number:04d}" for number in range(1, NUM + 1)]
    return [member for number, key in enumerate(keys, start=1) for member in sample(key, number)]


def _by_key(members: Members) -> Found:
    found: Found = {}
    for name, data in members:
        key, _, extension = name.partition(".")
        found.setdefault(key, {})[extension] = data
    return found


def _independent(data: bytes) -> Found:
    """The samples that ``tarfile`` finds, behind damage too."""
    members: Members = []
    try:
        with tarfile.open(fileobj=io.BytesIO(data), ignore_zeros=True) as tar:
            for member in tar:
                if member.isfile() and member.offset_data + member.size <= len(data):
                    members.append((member.name, data[member.offset_data : member.offset_data + member.size]))
    except (tarfile.TarError, ValueError, OverflowError):
        pass
    return _by_key([(name, part) for name, part in members if name.endswith((".jpg", ".txt", ".json"))])


def _is_as_written(mutation: Mutation, used: Sample, entry: np.void, original: dict[str, bytes]) -> bool:
    """Or its bytes, or those of the json between or beside them, were changed: a tar has no checksum of content."""
    if (used.image, used.caption.encode()) == (original["jpg"], original["txt"]):
        return True
    places = [(int(entry[f"{part}_offset"]), int(entry[f"{part}_size"])) for part in ("image", "text")]
    start, stop = min(at for at, _ in places), max(at + size for at, size in places)
    return mutation.touches(start, stop + JSON_BEHIND)


def _check(mutation: Mutation, index: PoolIndex, written: Found) -> None:
    """What is used was written so, except for bytes that were changed: a tar has no checksum of its content."""
    by_uid = {json.loads(parts["json"])["uid"]: parts for parts in written.values()}
    there = _independent(mutation.data)
    for row in range(len(index)):
        used, entry = index.read(row), index.entries([row])[0]
        if used.uid in by_uid:
            assert _is_as_written(mutation, used, entry, by_uid[used.uid]), f"{mutation.what}: {used.uid} is another"
        else:  # the uid in its json was changed, or the json has another name now, and the derived uid is said
            assert any(parts.get("jpg") == used.image for parts in there.values())
            said = [example["key"] for example in index.report.examples.get("derived_uid", [])]
            assert said or any(used.uid.encode() in parts.get("json", b"") for parts in there.values()), mutation.what


@pytest.mark.parametrize("seed", range(2 * NUM_WAYS))
@pytest.mark.parametrize("format", list(FORMATS))
def test_shards(tmp_path: Path, format: str, seed: int) -> None:
    members = _written(long=format != "ustar")
    path = write_tar(tmp_path / "pool" / "0.tar", members, FORMATS[format])
    mutation = mutate(path.read_bytes(), seed, block=512)
    path.write_bytes(mutation.data)
    index = outcome(lambda: PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache"), tmp_path / "pool")
    if index is None:
        return
    _check(mutation, index, _by_key(members))
    there, lost = len(_independent(mutation.data)), index.report.num_lost
    assert len(index) + lost >= there, f"{mutation.what}: {len(index)} used, {lost} lost, of {there}"
    assert len(index) + lost <= max(there, NUM) + 3, f"{mutation.what}: {len(index)} used, {lost} lost, of {there}"
    assert index.report.samples == len(index) + lost


@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_a_shard(tmp_path: Path, mark: Path, stranger: str) -> None:
    members = _written(long=False)
    write_tar(tmp_path / "pool" / "0.tar", members)
    (tmp_path / "pool" / "1.tar").write_bytes(strangers(mark)[stranger])
    index = outcome(lambda: PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache"), tmp_path / "pool")
    assert index is not None
    assert len(index) == NUM
    assert index.report.num_lost == 1


@pytest.mark.parametrize("stranger", list(strangers(Path())))
@pytest.mark.parametrize("part", ["jpg", "txt", "json"])
def test_strangers_in_place_of_a_member(tmp_path: Path, mark: Path, part: str, stranger: str) -> None:
    """A caption may be any text; pictures are looked at when they are read."""
    content = strangers(mark)[stranger]
    write_tar(tmp_path / "pool" / "0.tar", [*sample("a", 1, **{part: content}), *sample("b", 2)])
    index = outcome(lambda: PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache"), tmp_path / "pool")
    assert index is not None
    assert len(index) + index.report.num_lost == 2


JSONS = ["[]", "3", "null", '"uid"', "{", '{"uid": 3}', '{"uid": [1]}', '{"uid": ""}', '{"uid": "xyz"}', "[" * 9999,
         '{"uid": "' + "0" * 40 + '"}', '{"uid": 1e999}', "NaN", '{"uid": {"a": 1}}', "\x00"]  # fmt: skip


@pytest.mark.parametrize("content", JSONS, ids=range(len(JSONS)))
def test_jsons_of_another_kind(tmp_path: Path, content: str) -> None:
    """Their sample is lost, or gets a derived uid; either is said, by name."""
    write_tar(tmp_path / "pool" / "0.tar", [*sample("a", 1, json=content.encode()), *sample("b", 2)])
    index = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache")
    assert index.find(parse_uids([f"{1:032x}"])).tolist() == [-1]
    examples = [example for examples in index.report.examples.values() for example in examples]
    assert [(example["shard"], example["key"]) for example in examples] == [("0", "a")]
