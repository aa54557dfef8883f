"""Samples used and samples lost are together what was put into a tar, or what can still be seen of it.

The independent reader looks for a header at every byte and has ``tarfile`` judge it.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.mutations import NUM_WAYS, mutate
from helpers.pools import sample
from helpers.tars import Members, write_tar
from selection.samples.scan import scan_tar

NUM = 12
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_of(folder: Path, format: int, key: str = "", order: Callable[[Members], Members] | None = None) -> bytes:
    members = [member for number in range(1, NUM + 1) for member in sample(f"{key}{number:04d}", number)]
    return write_tar(folder / "0.tar", order(members) if order else members, format).read_bytes()


def counted(data: bytes, expected: int | None = None) -> tuple[int, int]:
    """Samples used, samples lost."""
    rows, report = scan_tar(io.BytesIO(data), "0", expected)
    assert report.samples == len(rows) + report.num_lost
    return len(rows), report.num_lost


def keys_seen(data: bytes) -> list[str]:
    """The key of each run of members of which there is a header, at any byte."""
    keys: list[str] = []
    for match in re.finditer(b"ustar", data):
        at = match.start() - 257
        try:
            info = tarfile.TarInfo.frombuf(data[max(at, 0) : at + 512], "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            continue
        key = info.name.split(".")[0]
        if info.isfile() and keys[-1:] != [key]:
            keys.append(key)
    return keys


def blocks_of_headers(data: bytes) -> list[tuple[int, int]]:
    """(Start, end) of what stands before each member's bytes."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member.offset, member.offset_data) for member in tar]


def by_kind(members: Members) -> Members:
    return sorted(members, key=lambda member: member[0].rsplit(".")[-1])


@pytest.mark.parametrize("order", [None, by_kind])
@pytest.mark.parametrize("key", ["", "x" * 105], ids=["short", "long"])
@pytest.mark.parametrize("format", list(FORMATS))
def test_without_the_header_of_any_member_its_sample_is_lost_and_no_other(
    tmp_path: Path, format: str, key: str, order: Callable[[Members], Members] | None
) -> None:
    if key and format == "ustar":
        return  # has no room for it
    data = tar_of(tmp_path, FORMATS[format], key, order)
    for start, stop in blocks_of_headers(data):
        for block in range(start, stop, 512):
            garbled = bytearray(data)
            garbled[block : block + 512] = b"!" * 512
            used, lost = counted(bytes(garbled))
            assert used + lost == NUM, f"{block} of {start} to {stop}"
            if not (format == "gnu" and start < block < stop - 512):  # a long name, of which there is no checksum
                assert lost == 1, f"{block} of {start} to {stop}"


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_of_samples_without_a_header_those_that_are_promised_count(tmp_path: Path, gone: int) -> None:
    """And one where nothing is promised: nobody can know how many there were."""
    data = tar_of(tmp_path, tarfile.USTAR_FORMAT)
    headers = [start for start, _ in blocks_of_headers(data)]
    garbled = bytearray(data)
    first, behind = headers[3 * 4], headers[3 * (4 + gone)]
    garbled[first:behind] = b"!" * (behind - first)
    assert counted(bytes(garbled)) == (NUM - gone, 1)
    assert counted(bytes(garbled), NUM) == (NUM - gone, gone)


def test_damage_in_two_places_and_a_sample_that_had_no_caption_before(tmp_path: Path) -> None:
    """What a whole sample lost here does not stand for what damage took there."""
    members = [
        m
        for number in range(1, NUM + 1)
        for m in sample(f"{number:04d}", number, **({"txt": None} if number == 2 else {}))
    ]
    data = write_tar(tmp_path / "0.tar", members).read_bytes()
    headers = {name: start for (name, _), (start, _) in zip(members, blocks_of_headers(data))}
    garbled = bytearray(data)
    for first, behind in (("0004.txt", "0005.txt"), ("0008.jpg", "0009.jpg")):  # parts of two samples; all of one
        garbled[headers[first] : headers[behind]] = b"!" * (headers[behind] - headers[first])
    used, lost = counted(bytes(garbled))
    assert (used, lost) == (NUM - 4, 4)


@pytest.mark.parametrize("format", ["ustar", "gnu"])
def test_wherever_it_is_cut(tmp_path: Path, format: str) -> None:
    data = tar_of(tmp_path, FORMATS[format])
    end = data.rindex(b"ustar") - 257 + 2 * 512  # of the last member, a json of less than a block
    for length in sorted({*range(512, len(data), 512), *range(700, len(data), 911)}):
        cut = data[:length]
        seen = len(set(keys_seen(cut)))
        used, lost = counted(cut)
        assert seen <= used + lost <= min(seen + 1, NUM), length
        assert length < end or (used, lost) == (NUM, 0)
        assert sum(counted(cut, NUM)) == NUM, length


COPIES = re.compile("doubled|bytes from")  # there are more headers than were written


@pytest.mark.parametrize("seed", range(4 * NUM_WAYS))
def test_however_it_is_damaged(tmp_path: Path, seed: int) -> None:
    mutation = mutate(tar_of(tmp_path, tarfile.USTAR_FORMAT), seed, block=512)
    runs, has_copies = keys_seen(mutation.data), COPIES.search(mutation.what) is not None
    seen, most = len(set(runs)), len(runs if has_copies else set(runs))
    total, promised = sum(counted(mutation.data)), sum(counted(mutation.data, NUM))
    assert seen <= total <= most + 1, mutation.what
    assert NUM <= promised <= (max(NUM, most + 1) if has_copies else NUM), mutation.what
