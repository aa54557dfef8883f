"""Which members of a tar become samples: captions in a json, compound extensions, keys with dots."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from clipsift_common.errors import ClipsiftError
from helpers.pictures import picture
from helpers.pools import sample, write_pool
from helpers.tars import Members, write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.samples.fields import Fields
from selection.uids import derive_uid, format_uids

COUNT = 6


def index_of(folder: Path, members: Members, max_loss: float = 1.0, **fields: Any) -> PoolIndex:
    write_tar(folder / "pool" / "0.tar", members)
    return PoolIndex.build(Pool(str(folder / "pool"), Fields(**fields)), folder / "cache", max_loss=max_loss)


def captions(index: PoolIndex) -> list[str]:
    return [index.read(row).caption for row in range(len(index))]


def with_json(values: Any, key: str = "k{}", extension: str = "jpg") -> Members:
    """Samples of a picture and a json."""
    return [
        member
        for number in range(COUNT)
        for member in (
            (f"{key.format(number)}.{extension}", picture(number)),
            (f"{key.format(number)}.json", json.dumps(values).encode()),
        )
    ]


@pytest.mark.parametrize(
    ("values", "caption"),
    [
        ({"caption": "a dog"}, "a dog"),
        ({"text": "a dog"}, "a dog"),
        ({"re_caption": "a dog", "url": "x"}, "a dog"),
        ({"captions": ["a dog", "a cat"]}, "a dog"),
        ({"texts": [["alt", "a dog"], ["title", "a cat"]]}, "a dog"),
        ({"texts": [["alt", "\u200b"], ["title", "a cat", [1, 2]]]}, "a cat"),
        ({"caption": None, "text": " ", "re_caption": "一只狗"}, "一只狗"),
        ({"caption": "half \ud83d of a pair"}, "half ? of a pair"),
    ],
)
def test_a_caption_may_be_in_the_json(tmp_path: Path, values: dict[str, Any], caption: str) -> None:
    index = index_of(tmp_path, with_json(values))
    assert captions(index) == [caption] * COUNT
    assert index.report.num_lost == 0


@pytest.mark.parametrize("values", [{"caption": 7}, {"caption": {"en": "x"}}, {"caption": []}, {"title": "a dog"}, []])
def test_a_json_without_a_caption_has_none(tmp_path: Path, values: Any) -> None:
    members = [*sample("whole", 99), *with_json(values)]
    assert index_of(tmp_path, members).report.lost == {"missing_caption": COUNT}


def test_the_first_place_that_has_a_caption_counts(tmp_path: Path) -> None:
    members = sample("a", 1, json=b'{"caption": "of the json", "mine": "of mine"}') + sample("b", 2, txt=None)
    assert captions(index_of(tmp_path / "0", members)) == ["picture number 1"]
    first_json = index_of(tmp_path / "1", members, caption=["json:mine", "txt"])
    assert captions(first_json) == ["of mine"]
    other_json = index_of(tmp_path / "2", members, caption=["json:caption", "txt"])
    assert captions(other_json) == ["of the json"]
    assert len({first_json.fingerprint, other_json.fingerprint}) == 2  # the same bytes, other captions


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("input.jpg", "outputs.txt"),
        ("1.jpg", "1.txt"),
        ("image.jpeg", "txt"),
        ("jpg", "caption.txt"),
        ("rgb.x.png", "a.b.TXT"),
    ],
)
@pytest.mark.parametrize("by_kind", [False, True])
def test_compound_extensions(tmp_path: Path, image: str, text: str, by_kind: bool) -> None:
    members = [
        member
        for number in range(COUNT)
        for member in ((f"s{number}.{image}", picture(number)), (f"s{number}.{text}", f"number {number}".encode()))
    ]
    if by_kind:
        members.sort(key=lambda member: member[0].partition(".")[2])
    index = index_of(tmp_path, members)
    assert captions(index) == [f"number {number}" for number in range(COUNT)]
    assert [index.read(row).key for row in range(COUNT)] == [f"s{number}" for number in range(COUNT)]
    assert format_uids(index.uids) == [derive_uid("0", f"s{number}") for number in range(COUNT)]
    assert index.report.ignored == {}


def test_what_is_extra_is_counted_and_not_mistaken_for_the_picture(tmp_path: Path) -> None:
    members = [*sample("a", 1), ("a.mask.png", b"x"), ("a.1.pkl", b"x"), ("a.2.pkl", b"x"), ("README", b"x")]
    report = index_of(tmp_path, members).report
    assert (report.samples, report.num_lost) == (1, 0)
    assert report.ignored == {"png member": 1, "pkl member": 2, "member without a key": 1}


@pytest.mark.parametrize(
    ("members", "cause", "remedy"),
    [
        ([("a.1.jpg", b"x"), ("a.2.jpg", b"x"), ("a.txt", b"y")], "several_images", "fields.image"),
        ([("a.jpg", b"x"), ("a.en.txt", b"y"), ("a.de.txt", b"y")], "several_captions", "fields.caption"),
    ],
)
def test_a_choice_is_not_made_silently(tmp_path: Path, members: Members, cause: str, remedy: str) -> None:
    index = index_of(tmp_path / "0", [*sample("whole", 1), *members])
    assert index.report.lost == {cause: 1}
    assert remedy in index.report.examples[cause][0]["detail"]
    chosen = index_of(tmp_path / "1", members, image=["1.jpg", "jpg"], caption=["txt", "en.txt"])
    assert (len(chosen), chosen.report.num_lost) == (1, 0)


@pytest.mark.parametrize("name", ["photo.{:04d}", "img.2024.{}", "a.b/photo.v1.{:02d}", "frame.{}.final"])
@pytest.mark.parametrize("parts", [("jpg", "txt", "json"), ("png", "txt"), ("jpg", "json")])
def test_keys_with_dots_are_refused_by_name_and_read_on_request(
    tmp_path: Path, name: str, parts: tuple[str, ...]
) -> None:
    """60 of 180 samples, counted as 60, not as one."""
    contents = {
        "jpg": picture(1),
        "png": picture(1, format="PNG"),
        "txt": b"a caption",
        "json": b'{"caption": "a caption"}',
    }
    dotted = [(f"{name.format(number)}.{part}", contents[part]) for number in range(60) for part in parts]
    plain = [member for number in range(120) for member in sample(f"{number:05d}", number + 1)]
    with pytest.raises(ClipsiftError, match=r"60 of 180 samples lost \(33\.33%; dotted_keys 60\).*keys to last_dot"):
        index_of(tmp_path, [*plain, *dotted], max_loss=0.01)
    index = index_of(tmp_path, [*plain, *dotted], max_loss=0.0, keys="last_dot")
    assert (len(index), index.report.samples) == (180, 180)
    assert index.read(179).key == name.format(59)


def test_a_pool_without_samples_says_what_it_has(tmp_path: Path) -> None:
    members = [(f"k{n}.{e}", picture(1, format="GIF")) for n in range(20) for e in ("gif", "txt")] + [("README", b"")]
    with pytest.raises(ClipsiftError, match=r"20 missing_image \(it has txt, gif\).*20 \.gif, 20 \.txt.*fields"):
        index_of(tmp_path / "0", members)
    more = [(f"k{n}.{e}", b"x") for n in range(5) for e in ("jfif", "alt")]
    with pytest.raises(ClipsiftError, match=r"no usable sample.*5 \.jfif, 5 \.alt"):
        index_of(tmp_path / "1", more, max_loss=0.01)
    assert len(index_of(tmp_path / "2", more, image=["jfif"], caption=["alt"])) == 5


def test_another_extension_of_some_is_a_loss_with_a_name(tmp_path: Path) -> None:
    members = [*sample("a", 1), *sample("b", 2, jpg=None), ("b.gif", b"x"), *sample("c", 3, txt=None), ("c.alt", b"x")]
    report = index_of(tmp_path, members).report
    assert report.lost == {"missing_image": 1, "missing_caption": 1}
    assert report.ignored == {"gif member": 1, "alt member": 1}
    assert "gif" in report.examples["missing_image"][0]["detail"]


@pytest.mark.parametrize("document", ["[1]", '"text"', "null", "7", '{"uid": null}', "{}"])
def test_a_json_without_a_uid_is_counted(tmp_path: Path, document: str) -> None:
    index = index_of(tmp_path, sample("a", 1) + sample("b", 2, json=document.encode()))
    assert index.report.noted == {"derived_uid": 1}
    assert format_uids(index.uids) == [f"{1:032x}", derive_uid("0", "b")]


@pytest.mark.parametrize(("uid", "cause"), [(7, "bad_uid"), (True, "bad_uid"), ([1], "bad_uid"), ("xyz", "bad_uid")])
def test_what_cannot_be_a_uid_is_lost(tmp_path: Path, uid: Any, cause: str) -> None:
    index = index_of(tmp_path, sample("a", 1) + sample("b", 2, json=json.dumps({"uid": uid}).encode()))
    assert index.report.lost == {cause: 1}


def test_a_uid_may_have_another_name_or_a_member_of_its_own(tmp_path: Path) -> None:
    uuid = "0f8fad5b-d9cb-469f-a165-70867728950e"
    members = with_json({"caption": "x", "uuid": uuid}, key="k")[:2]
    assert format_uids(index_of(tmp_path / "0", members, uid=["json:uuid"]).uids) == [uuid.replace("-", "")]
    members = [*sample("a", 1, json=None), ("a.id", b"ABC\n"), *sample("b", 2)]
    index = index_of(tmp_path / "1", members, uid=["id", "json:uid"])
    assert format_uids(index.uids) == [f"{0xABC:032x}", f"{2:032x}"]


@pytest.mark.parametrize(
    "fields",
    [
        {"image": []},
        {"caption": []},
        {"image": [".jpg"]},
        {"image": ["json:x"]},
        {"uid": ["json:"]},
        {"caption": ["TXT"]},
    ],
)
def test_places_that_are_none_are_refused(fields: dict[str, list[str]]) -> None:
    with pytest.raises(ClipsiftError, match=r"^fields"):
        Fields(**fields)


def test_an_index_belongs_to_its_fields(tmp_path: Path) -> None:
    root = write_pool(tmp_path / "pool", {"0": 3, "1": 2})
    built = [
        PoolIndex.build(Pool(str(root), Fields(**fields)), tmp_path / "cache")
        for fields in ({}, {"keys": "last_dot"}, {})
    ]
    folders = [index.folder for index in built]
    assert folders[0] == folders[2] != folders[1]
    assert len({index.fingerprint for index in built}) == 1  # the same samples: features and scores serve all


def test_a_member_of_gigabytes_is_a_loss(tmp_path: Path) -> None:
    """The index has room for 2 GiB."""
    whole, huge = tmp_path / "whole.tar", tmp_path / "pool" / "0.tar"
    write_tar(whole, [*sample("a", 1), *sample("b", 2, txt=None)])
    header = tarfile.TarInfo("b.txt")
    header.size = 1 << 31
    huge.parent.mkdir()
    with open(huge, "wb") as out:
        out.write(whole.read_bytes().rstrip(b"\0"))
        out.seek(-(-out.tell() // 512) * 512)
        out.write(header.tobuf())
        out.truncate(out.tell() + header.size + 1024)  # nothing is written: a sparse file
    assert PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache").report.lost == {"missing_caption": 1}


def keys_found_by_tarfile(path: Path) -> Counter[str]:
    """Pictures by key, as an independent reader finds them."""
    with tarfile.open(path, ignore_zeros=True) as tar:
        names = [member.name for member in tar if member.isfile()]
    return Counter(
        name.rpartition("/")[2].partition(".")[0] for name in names if name.lower().endswith((".jpg", ".png"))
    )


@pytest.mark.parametrize("joined", [1, 2])
def test_used_and_lost_are_all_that_tarfile_finds(tmp_path: Path, joined: int) -> None:
    members = [
        *sample("a", 1),
        *sample("a", 2),
        *sample("blank", 3, txt=b"\xef\xbb\xbf"),
        *sample("zero", 4, jpg=b""),
        *[(f"photo.{number}.jpg", picture(number)) for number in range(9)],
        *[(f"photo.{number}.txt", b"x") for number in range(9)],
        ("c.input.jpg", picture(5)),
        ("c.outputs.txt", b"x"),
        *sample("d", 6, json=b"[]"),
        *sample("e", 7, json=b"{"),
        ("f.jpg", picture(8)),
        *sample("g", 9, txt=None, json=b'{"text": "in the json"}'),
    ]
    path = write_tar(tmp_path / "pool" / "0.tar", members)
    path.write_bytes(path.read_bytes() * joined)
    index = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache")
    assert index.report.samples == keys_found_by_tarfile(path).total() == 18 * joined
    assert len(index) + index.report.num_lost == index.report.samples
    assert len(index) == 4  # a, c, d, g
