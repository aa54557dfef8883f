from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clipsift_common.errors import ClipsiftError
from selection.features import npz
from selection.features.npz import checksums, read_array

IMAGE = np.arange(24, dtype=np.float16).reshape(6, 4)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    np.savez(tmp_path / "a.npz", l14_img=IMAGE, l14_txt=np.asfortranarray(IMAGE + 1), none=np.empty((0, 4), np.float16))
    return tmp_path / "a.npz"


def test_a_large_stored_array_is_mapped_and_not_written_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "MAPPED_FROM", 0)
    whole = path.read_bytes()
    for key, expected in (("l14_img", IMAGE), ("l14_txt", IMAGE + 1)):
        array = read_array(str(path), key)
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, expected)
        array[0] = 7
    assert path.read_bytes() == whole
    assert read_array(str(path), "none").shape == (0, 4)


def test_a_compressed_or_remote_array_is_loaded(path: Path) -> None:
    np.savez_compressed(path.with_name("b.npz"), l14_img=IMAGE)
    for name in (str(path.with_name("b.npz")), f"file://{path}"):
        array = read_array(name, "l14_img")
        assert not isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, IMAGE)


@pytest.mark.parametrize("mapped_from", [0, 1 << 22])
def test_damage_is_named(path: Path, monkeypatch: pytest.MonkeyPatch, mapped_from: int) -> None:
    monkeypatch.setattr(npz, "MAPPED_FROM", mapped_from)
    whole = path.read_bytes()
    place = whole.index(IMAGE.tobytes()) + 5
    for name, content, words in (
        ("flipped", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], "another checksum|Bad CRC-32"),
        ("short", whole[: len(whole) // 2], "features cannot be read"),
        ("other", b"no archive", "features cannot be read"),
    ):
        path.with_name(name).write_bytes(content)
        with pytest.raises(ClipsiftError, match=f"{name}: features cannot be read.*({words})|{name}: {words}"):
            read_array(str(path.with_name(name)), "l14_img")
    with pytest.raises(ClipsiftError, match=r"has no array b32_img .it has l14_img, l14_txt, none"):
        read_array(str(path), "b32_img")
    np.savez(path.with_name("objects.npz"), l14_img=np.array([{}, {}], dtype=object))
    with pytest.raises(ClipsiftError, match=r"objects.npz: features cannot be read"):
        read_array(str(path.with_name("objects.npz")), "l14_img")


def test_checksums_tell_contents_apart_without_reading_them(path: Path) -> None:
    first = checksums(str(path), ["l14_img", "l14_txt"])
    np.savez(path, l14_img=IMAGE, l14_txt=IMAGE + 2)
    second = checksums(str(path), ["l14_img", "l14_txt"])
    assert first[0] == second[0]
    assert first[1] != second[1]
    with pytest.raises(ClipsiftError, match="has no array"):
        checksums(str(path), ["b32_img"])
