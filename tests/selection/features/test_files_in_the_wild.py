"""Feature files and targets as other programs leave them: valid ones are read, damaged ones are named."""

from __future__ import annotations

import pickle
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from clipsift_common.errors import ClipsiftError
from selection.features.files import FeatureFile, write_feature_file
from selection.features.target import load_target
from selection.registry import FeatureBlock
from selection.scores import SCORES
from selection.uids import format_uids, parse_uids

ROWS = np.array([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]])
UIDS = [f"{number:032x}" for number in (10, 11, 12)]
DTYPES = [">f4", ">f2", ">f8", np.longdouble, "<f8"]


def metadata(folder: Path, table: pa.Table, **how: object) -> FeatureFile:
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "0.parquet", **how)
    return FeatureFile(str(folder / "0.parquet"), "l14")


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_any_float_dtype_become_tensors_of_the_same_values(tmp_path: Path, dtype: object) -> None:
    file = metadata(tmp_path, pa.table({"uid": UIDS}))
    np.savez(tmp_path / "0.npz", l14_img=ROWS.astype(dtype), l14_txt=ROWS.astype(dtype))
    np.save(tmp_path / "target.npy", ROWS.astype(dtype))
    target = load_target(str(tmp_path / "target.npy"), None, "l14", tmp_path, torch.device("cpu"))
    for read in (torch.from_numpy(file.image()), torch.from_numpy(file.text()), target):
        assert read.double().tolist() == pytest.approx(ROWS, abs=1e-3)


@pytest.mark.parametrize(
    "uids",
    [
        pa.array([10, 11, 12]),
        pa.array([10, 11, 12], pa.uint64()),
        pa.array([1.0, 2.0, 3.0]),
        pa.array([Decimal(10), Decimal(11), Decimal(12)]),
        pa.array([True, False, True]),
    ],
)
def test_uids_that_are_numbers_are_refused_with_the_remedy(tmp_path: Path, uids: pa.Array) -> None:
    with pytest.raises(ClipsiftError, match=r'0\.parquet: uids are numbers .*f"\{uid:032x\}"'):
        metadata(tmp_path, pa.table({"uid": uids})).uids()


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pa.table([UIDS, UIDS[::-1], ["a"] * 3, ["b"] * 3], names=["uid", "uid", "text", "text"])
    file = metadata(tmp_path, table)
    with pytest.raises(ClipsiftError, match=r"0\.parquet: has 2 columns named uid"):
        file.uids()
    with pytest.raises(ClipsiftError, match=r"0\.parquet: has 2 columns named text"):
        file.column("text")


@pytest.mark.parametrize("place", [0, 7, 900, -1])
def test_a_damaged_page_is_named(tmp_path: Path, place: int) -> None:
    """By its checksum; a page that is cut off also without one."""
    uids = parse_uids([f"{number:032x}" for number in range(1000)])
    write_feature_file(tmp_path, "l14", "0", uids, [""] * 1000, ROWS[[0] * 1000], ROWS[[0] * 1000])
    path = tmp_path / "0.parquet"
    assert format_uids(FeatureFile(str(path)).uids())[999] == f"{999:032x}"
    column = pq.read_metadata(path).row_group(0).column(0)
    start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(path.read_bytes())
    content[start + place % column.total_compressed_size] ^= 4
    path.write_bytes(content)
    with pytest.raises(ClipsiftError, match=r"0\.parquet: column uid is damaged"):
        FeatureFile(str(path)).uids()


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.pt", "t.pth"])
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"<html>", pickle.dumps({"a": 1})])
def test_a_target_that_is_none_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ClipsiftError, match=rf"target: .*{name} "):
        load_target(str(tmp_path / name), None, "l14", tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.pt"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_a_target_that_is_cut_off_is_named(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    save = {"t.npy": np.save, "t.npz": np.savez, "t.pt": lambda path, rows: torch.save(torch.from_numpy(rows), path)}
    save[name](path, ROWS[[0] * 100])
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ClipsiftError, match=rf"target: .*{name} "):
        load_target(str(path), None, "l14", tmp_path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([Decimal("0.25"), Decimal("-1.5"), None]), [0.25, -1.5, np.nan]),
        (pa.array([True, False, True]), [1, 0, 1]),
        (pa.array([True, None, False]), [1, np.nan, 0]),
        (pa.array([3, None, 4], pa.int16()), [3, np.nan, 4]),
    ],
)
def test_decimals_and_booleans_are_scores(tmp_path: Path, values: pa.Array, expected: list[float]) -> None:
    column = metadata(tmp_path, pa.table({"uid": UIDS, "aesthetic": values})).column("aesthetic")
    block = FeatureBlock(torch.empty(3, 0), torch.empty(3, 0), columns={"aesthetic": column})
    score = SCORES["metadata_column"](block, column="aesthetic")
    np.testing.assert_array_equal(score.numpy(), np.array(expected, np.float32))
