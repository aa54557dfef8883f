"""A tar's samples: runs of members with one key, up to where the tar stops being readable."""

from __future__ import annotations

import os
from pathlib import Path

from clipsift_common.tar_samples import TarReader, TarSample
from helpers.tars import Members, write_tar

MEMBERS: Members = [
    ("a/1.jpg", b"jpg"),
    ("a/1.cls", b"7"),
    ("a/1.SEG.PNG", b"seg"),
    ("README", b"no sample"),
    ("a/2.JPG", b"upper"),
    ("a/2.jpg", b"again"),
    ("b/2.txt", b"another folder"),
]


def read(
    path: Path, wanted: tuple[str, ...] = ("jpg", "txt")
) -> tuple[TarReader, list[tuple[str, list[str], list[str]]]]:
    with open(path, "rb") as handle:
        reader = TarReader(handle, wanted)
        return reader, [(sample.key, list(sample.parts), list(sample.others)) for sample in reader]


def test_a_sample_is_a_run_of_one_key(tmp_path: Path) -> None:
    reader, samples = read(write_tar(tmp_path / "0.tar", MEMBERS))
    assert samples == [
        ("a/1", ["jpg"], ["cls", "seg.png"]),
        ("a/2", ["jpg"], []),
        ("a/2", ["jpg"], []),
        ("b/2", ["txt"], []),
    ]
    assert (reader.truncated, reader.last_key) == ("", "b/2")


def test_contents(tmp_path: Path) -> None:
    with open(write_tar(tmp_path / "0.tar", MEMBERS), "rb") as handle:
        reader = TarReader(handle, ["jpg"])
        contents = [reader.read(sample.parts["jpg"]) for sample in reader if sample.parts]
        assert contents == [b"jpg", b"upper", b"again"]
        assert reader.read(next(iter(reader)).parts["jpg"], limit=2) == b"jp"


def test_the_order_of_preference() -> None:
    sample = TarSample("k", {name: (name, 0, 0) for name in ("jpg", "png")})  # type: ignore[misc]
    assert [sample.first(order) for order in (("webp", "png", "jpg"), ("jpg", "png"))] == [("png", 0, 0), ("jpg", 0, 0)]
    assert sample.first(["gif"]) is None


def test_the_sample_that_a_cut_goes_through_is_not_given(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", MEMBERS)
    os.truncate(path, 5 * 1024 + 100)  # a member is a block of header and one of data; the cut is in the second a/2.jpg
    reader, samples = read(path)
    assert [key for key, _, _ in samples] == ["a/1"]
    assert reader.truncated.startswith("at offset 5120")
    assert reader.last_key == "a/2"
    os.truncate(path, 0)
    reader, samples = read(path)
    assert (samples, reader.size, reader.truncated) == ([], 0, "")
