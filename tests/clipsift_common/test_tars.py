"""Headers read by us and by Python's tarfile: the same members at the same places, the same ends."""

from __future__ import annotations

import io
import random
import tarfile

import pytest

from clipsift_common.tars import BLOCK, Member, TarError, Window, members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **changes: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in changes.items():
        setattr(info, key, value)
    tar.addfile(info, io.BytesIO(data))


def mixed(form: int) -> bytes:
    """Files, empty ones, long and foreign names, a folder, links, a device."""
    buffer, dice = io.BytesIO(), random.Random(0)
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        add(tar, "./folder/", type=tarfile.DIRTYPE)
        for number, length in enumerate([0, 1, 511, 512, 513, 30_000, 5]):
            add(tar, f"folder/{number:012d}.jpg", dice.randbytes(length))
        add(tar, "d" * 60 + "/" + "e" * 60 + "/split by the prefix.txt", b"abc")
        if form != tarfile.USTAR_FORMAT:
            add(tar, "n" * 300 + ".txt", b"after a long name")
            add(tar, "x.jpg", b"12", linkname="l" * 200)
            add(tar, "hard", type=tarfile.LNKTYPE, linkname="l" * 200)
        add(tar, "grüße.json", b"{}")
        add(tar, "soft", type=tarfile.SYMTYPE, linkname="x.jpg")
        add(tar, "pipe", type=tarfile.FIFOTYPE)
        add(tar, "last.txt", b"end")
    return buffer.getvalue()


def by_tarfile(data: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [Member(info.name, info.offset_data, info.size) for info in tar if info.isfile()]


def ours(data: bytes) -> list[Member]:
    return list(members(Window(io.BytesIO(data)), len(data)))


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_the_same_members_as_tarfile(form):
    data = mixed(form)
    assert ours(data) == by_tarfile(data)
    assert len(ours(data)) >= 9


def test_pax_headers_that_hold_for_all_and_sizes_in_pax():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "ü" * 700}) as tar:
        add(tar, "one.txt", b"1" * 700)
        add(tar, "two.txt", b"2" * 600, pax_headers={"size": "600", "mtime": "1.5"})
    data = bytearray(buffer.getvalue())
    assert ours(bytes(data)) == by_tarfile(bytes(data))
    # What the pax record says counts, not the header's field.
    at = ours(bytes(data))[1].offset_data - BLOCK
    data[at + 124 : at + 136] = b"00000000000\0"
    data[at + 148 : at + 156] = b"%06o\0 " % tarfile.calc_chksums(data[at : at + BLOCK])[0]
    assert ours(bytes(data))[1].size == 600


def test_sizes_in_base_256_and_signed_checksums():
    info = tarfile.TarInfo("large.bin")
    info.size = 9 << 30  # beyond eleven octal digits
    header = info.tobuf(tarfile.GNU_FORMAT)
    found = next(members(Window(io.BytesIO(header)), 10 << 30))
    assert found == Member("large.bin", BLOCK, 9 << 30)
    info = tarfile.TarInfo("grüße.txt")
    signed = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    signed[148:156] = b"%06o\0 " % tarfile.calc_chksums(signed)[1]
    assert ours(bytes(signed) + bytes(1024)) == [Member("grüße.txt", BLOCK, 0)]


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_cut_anywhere_it_gives_what_is_whole_and_says_so(form):
    data = mixed(form)
    whole = ours(data)
    end = -(-(whole[-1].offset_data + whole[-1].size) // BLOCK) * BLOCK + BLOCK  # one block of the mark is enough
    for length in range(1, len(data), 509):
        found, ended = up_to_the_damage(data[:length])
        assert ended == (length >= end)
        assert found == [member for member in whole if member.offset_data + member.size <= length]


def up_to_the_damage(data: bytes) -> tuple[list[Member], bool]:
    """What is found, and whether the tar ended as it should."""
    found: list[Member] = []
    try:
        found.extend(members(Window(io.BytesIO(data)), len(data)))
    except TarError:
        return found, False
    return found, True


def test_of_garbage_nothing_outside_the_file_is_believed():
    data, dice = mixed(tarfile.PAX_FORMAT), random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[dice.randrange(len(data))] = dice.randrange(256)
        found, _ = up_to_the_damage(bytes(damaged))
        assert all(member.offset_data + member.size <= len(data) for member in found)


def test_sparse_files_are_refused_by_name():
    info = tarfile.TarInfo("holes.bin")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(TarError, match="at offset 0: a sparse file"):
        ours(info.tobuf() + bytes(1024))


def test_files_on_a_disk_read_alike(tmp_path):
    data = mixed(tarfile.GNU_FORMAT)
    (tmp_path / "0.tar").write_bytes(data)
    with open(tmp_path / "0.tar", "rb") as handle:
        assert list(members(Window(handle), len(data))) == ours(data)
