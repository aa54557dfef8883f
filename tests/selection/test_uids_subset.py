from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

from clipsift_common.errors import ClipsiftError
from selection.subset import Subset
from selection.uids import (
    UID_DTYPE,
    derive_uid,
    format_uids,
    is_sorted,
    parse_uids,
    search_uids,
    sort_key,
    sort_uids,
    uid_column,
)

uid_numbers = st.lists(st.integers(0, 2**128 - 1), max_size=30)


def subset_of(numbers: list[int]) -> Subset:
    return Subset(parse_uids([f"{number:032x}" for number in numbers]))


def numbers_in(subset: Subset) -> list[int]:
    return [int(text, 16) for text in format_uids(subset.uids)]


def test_uids_survive_the_round_trip_and_regain_leading_zeros() -> None:
    texts = ["0123456789abcdef00000000000000ff", "ff", "0" * 32]
    assert format_uids(parse_uids(texts)) == [texts[0], "ff".rjust(32, "0"), "0" * 32]
    assert parse_uids(["00000000000000010000000000000002"])[0].tolist() == (1, 2)


@pytest.mark.parametrize("bad", ["", "g" * 32, "a" * 33, " a", "a b", "0x1"])
def test_what_is_no_uid_is_refused_with_its_row(bad: str) -> None:
    with pytest.raises(ClipsiftError, match="row 1"):
        parse_uids(["ab", bad])


def test_reference_uids_parse_alike(golden: Path) -> None:
    for case in json.loads((golden / "selection/golden/uid_parse.json").read_text()):
        # Where DataComp's tools disagree (leading zeros lost), the resharder is right: it is what reads the subset.
        expected = tuple(int(half) for half in case["resharder_and_basic_filter"])
        assert parse_uids([case["uid"]])[0].tolist() == expected
    pool = np.load(golden / "selection/golden/pool_uids.npy")
    assert np.array_equal(parse_uids(format_uids(pool)), pool)


def test_columns_are_parsed_as_lists_are() -> None:
    texts = ["00" * 16, "ff", "0123456789ABCDEF" * 2, "f" * 32, "7"]
    expected = parse_uids(texts)
    column = pa.chunked_array([texts[:2], [], texts[2:]])
    assert np.array_equal(parse_uids(column), expected)
    assert np.array_equal(parse_uids(pa.array(texts)[1:4]), expected[1:4])
    assert np.array_equal(parse_uids(pa.array(texts, pa.large_string())), expected)
    assert np.array_equal(parse_uids(pa.array(texts).dictionary_encode()), expected)
    assert uid_column(expected).to_pylist() == format_uids(expected)
    assert len(parse_uids(pa.chunked_array([], pa.string()))) == 0
    for bad in (None, "", "g" * 32, "a" * 33, "\u00e9" * 16):
        with pytest.raises(ClipsiftError, match="row 3"):
            parse_uids(pa.chunked_array([["ab", "cd"], ["f" * 32, bad]]))


@given(uid_numbers, uid_numbers)
def test_search_finds_what_bisect_finds(there: list[int], asked: list[int]) -> None:
    there = sorted(number // 2**60 * 2**60 if number % 2 else number % 50 for number in there)  # halves that repeat
    asked = [number // 2**60 * 2**60 if number % 2 else number % 50 for number in asked] + there
    left, right = search_uids(subset_of(there).uids, parse_uids([f"{number:032x}" for number in asked]))
    assert left.tolist() == [bisect_left(there, number) for number in asked]
    assert right.tolist() == [bisect_right(there, number) for number in asked]


@given(uid_numbers)
def test_sortedness(numbers: list[int]) -> None:
    uids = parse_uids([f"{number % 7 * 2**64 + number % 3:032x}" for number in numbers])
    assert is_sorted(sort_uids(uids))
    assert is_sorted(uids) == (
        [int(text, 16) for text in format_uids(uids)] == sorted(int(text, 16) for text in format_uids(uids))
    )


@given(uid_numbers)
def test_order_is_that_of_the_numbers(numbers: list[int]) -> None:
    uids = parse_uids([f"{number:032x}" for number in numbers])
    assert [int(text, 16) for text in format_uids(sort_uids(uids))] == sorted(numbers)
    assert np.array_equal(np.argsort(sort_key(uids), kind="stable"), np.lexsort((uids["f1"], uids["f0"])))


def test_a_derived_uid_depends_on_shard_and_key_only() -> None:
    assert derive_uid("0001", "a") == derive_uid("0001", "a") != derive_uid("0002", "a")


@given(uid_numbers, uid_numbers)
def test_operations_are_those_of_sets(left: list[int], right: list[int]) -> None:
    one, other = subset_of(left), subset_of(right)
    assert numbers_in(one | other) == sorted({*left, *right})
    assert numbers_in(one & other) == sorted({*left} & {*right})
    assert numbers_in(one - other) == sorted({*left} - {*right})


@given(uid_numbers, uid_numbers)
def test_multiplicity_counts(kept: list[int], asked: list[int]) -> None:
    uids = parse_uids([f"{number:032x}" for number in asked])
    assert subset_of(kept).multiplicity(uids).tolist() == [kept.count(number) for number in asked]


def test_reference_algebra(golden: Path) -> None:
    def load(name: str) -> Subset:
        return Subset.load(golden / f"selection/golden/sets/{name}.npy")

    a, b = load("scliploss30_whole_l14"), load("datacomp_clipscore_l14_30")
    c = load("recipe_whole_l14_scliploss30_normsiminf_imagenet20")
    assert a | b == load("alg_union_AB")
    assert a & b == load("alg_intersection_AB")
    assert a - c == load("alg_difference_A_minus_C")
    assert (a - b) | (b - a) == load("alg_symdiff_AB")
    assert a.union(b, c) == load("alg_union_ABC")
    for name in ("alg_union_ABC", "alg_concat_multiset_ABC", "alg_weighted_multiset"):
        counts = np.load(golden / f"selection/golden/resharder_count_{name}.npy")
        pool = np.load(golden / "selection/golden/pool_uids.npy")
        assert np.array_equal(load(name).multiplicity(pool), counts)


def test_files_round_trip_sorted_and_others_are_refused(tmp_path: Path) -> None:
    subset = subset_of([5, 3, 2**100, 3])
    subset.save(tmp_path / "s.npy")
    raw = np.load(tmp_path / "s.npy", allow_pickle=False)
    assert raw.dtype == UID_DTYPE
    assert numbers_in(Subset(raw)) == [3, 3, 5, 2**100]
    assert Subset.load(tmp_path / "s.npy") == subset
    np.save(tmp_path / "wrong.npy", np.arange(3))
    (tmp_path / "noise.npy").write_bytes(b"noise")
    for name, words in (("wrong.npy", "int64"), ("noise.npy", "no .npy file"), ("absent.npy", "does not exist")):
        with pytest.raises(ClipsiftError, match=words):
            Subset.load(tmp_path / name)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("head", ["", "uid\n", "\ufeff"])
@pytest.mark.parametrize("count", [1, 3, 16, 33])  # 16 lines of 33 characters: a size that raw uids could have
def test_a_text_file_of_uids_is_never_read_as_bytes(tmp_path: Path, ending: str, head: str, count: int) -> None:
    texts = [f"{number:032x}" for number in range(count, 0, -1)]
    for name in ("uids.txt", "uids", "uids.csv"):
        (tmp_path / name).write_bytes((head + "".join(text + ending for text in texts)).encode())
        assert format_uids(Subset.of(tmp_path / name).uids) == sorted(texts)
    assert Subset.of(texts) == Subset.of(iter(texts)) == Subset.of(parse_uids(texts))


@pytest.mark.parametrize("line", ["no uid at all", "g" * 32, "a" * 33, "0x12"])
def test_a_text_file_with_a_line_that_is_no_uid_is_refused_by_line(tmp_path: Path, line: str) -> None:
    (tmp_path / "uids.txt").write_text(f"{'a' * 32}\n\n{line}\n")
    with pytest.raises(ClipsiftError, match=r"uids.txt line 3: .* is no uid"):
        Subset.load(tmp_path / "uids.txt")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
@pytest.mark.parametrize("count", [1, 15, 16, 32])
def test_text_in_another_encoding_is_not_read_as_bytes_either(tmp_path: Path, encoding: str, count: int) -> None:
    """Blanks fill the files up to a size that raw uids could have."""
    text = "".join(f"{number:032x}\n" for number in range(1, count + 1)) + "\u00e9"
    content = text.encode(encoding)
    fill = " ".encode(encoding.replace("16", "16-le").replace("le-le", "le"))
    (tmp_path / "uids.txt").write_bytes(content + fill * (-len(content) % 16 // len(fill)))
    with pytest.raises(ClipsiftError, match=r"uids.txt"):
        Subset.load(tmp_path / "uids.txt")


def test_raw_uids_of_any_kind_are_read_as_bytes(tmp_path: Path) -> None:
    hashes = [int(derive_uid("a", str(number)), 16) for number in range(100)]
    for numbers in (hashes, [7], list(range(0x40, 0x7F)), [2**127 + number for number in range(9)]):
        subset_of(numbers).uids.tofile(tmp_path / "raw.bin")
        assert numbers_in(Subset.load(tmp_path / "raw.bin")) == sorted(numbers)


def test_subset_files_of_the_other_byte_order_are_converted(tmp_path: Path) -> None:
    subset = subset_of([5, 2**64 + 1, 2**100])
    np.save(tmp_path / "big.npy", subset.uids.astype(UID_DTYPE.newbyteorder(">")))
    assert numbers_in(Subset.load(tmp_path / "big.npy")) == [5, 2**64 + 1, 2**100]


def test_a_subset_file_that_is_cut_off_empty_or_pickled_is_named(tmp_path: Path) -> None:
    subset_of(list(range(1000))).save(tmp_path / "whole.npy")
    whole = (tmp_path / "whole.npy").read_bytes()
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, content in (("empty", b""), ("short", whole[:-5]), ("header", whole[:40])):
        (tmp_path / f"{name}.npy").write_bytes(content)
    for name in ("empty", "short", "header", "pickled"):
        with pytest.raises(ClipsiftError, match=rf"{name}\.npy is no \.npy file of uids"):
            Subset.load(tmp_path / f"{name}.npy")


@pytest.mark.parametrize("count", [1 << 60, (1 << 60) + 1, (1 << 63) - 1])
def test_a_header_that_promises_more_than_there_can_be_is_named(tmp_path: Path, count: int) -> None:
    """Its size in bytes, reckoned in 64 bits, wraps around."""
    with open(tmp_path / "huge.npy", "wb") as handle:
        np.lib.format.write_array_header_1_0(
            handle, {"descr": UID_DTYPE.descr, "fortran_order": False, "shape": (count,)}
        )
        handle.write(bytes(64))
    with pytest.raises(ClipsiftError, match=r"huge\.npy is no \.npy file of uids .*; get it again"):
        Subset.load(tmp_path / "huge.npy")
