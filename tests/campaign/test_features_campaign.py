"""Damaged metadata (parquet, npz), subsets and targets: the values that were written, or one line."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.mutations import NUM_WAYS, mutate, outcome, strangers
from selection.features import npz
from selection.features.files import FeatureFile, write_feature_file
from selection.features.target import load_target
from selection.subset import Subset
from selection.uids import format_uids, parse_uids

pytestmark = pytest.mark.slow

ROWS = 300
UIDS = [f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for number in range(1, ROWS + 1)]
FEATURES = np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float16)
CPU = torch.device("cpu")


@pytest.mark.parametrize("seed", range(2 * NUM_WAYS))
@pytest.mark.parametrize("part", ["parquet", "npz", "mapped npz"])
def test_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, seed: int) -> None:
    """Pages and arrays have checksums: what is read is what was written. The parquet's footer has none: what it says
    of names and types is taken as it is."""
    captions = [f"caption {number}" for number in range(ROWS)]
    write_feature_file(tmp_path, "l14", "0", parse_uids(UIDS), captions, FEATURES, FEATURES[::-1])
    if part == "mapped npz":
        monkeypatch.setattr(npz, "MAPPED_FROM", 0)
    path = tmp_path / f"0.{part.split()[-1]}"
    mutation = mutate(path.read_bytes(), seed)
    path.write_bytes(mutation.data)
    file = FeatureFile(str(tmp_path / "0.parquet"), "l14")
    reads: dict[str, tuple[Callable[[], object], object]] = {
        "uids": (lambda: format_uids(file.uids()), UIDS),
        "text": (lambda: file.column("text").tolist(), captions),
        "image": (lambda: file.image().tolist(), FEATURES.tolist()),
        "other": (lambda: file.text().tolist(), FEATURES[::-1].tolist()),
        "rows": (file.num_rows, ROWS),
    }
    outcome(file.fingerprint, tmp_path / "0.")
    for name, (read, written) in reads.items():
        found = outcome(read, tmp_path / "0.")
        assert found is None or found == written, f"{mutation.what}: {name}"


@pytest.mark.parametrize("part", ["parquet", "npz"])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_metadata(tmp_path: Path, mark: Path, part: str, stranger: str) -> None:
    write_feature_file(tmp_path, "l14", "0", parse_uids(UIDS), [""] * ROWS, FEATURES, FEATURES)
    (tmp_path / f"0.{part}").write_bytes(strangers(mark)[stranger])
    file = FeatureFile(str(tmp_path / "0.parquet"), "l14")
    assert outcome(file.image, tmp_path / "0.") is None
    assert outcome(file.fingerprint, tmp_path / "0.") is None


WRONG_ARRAYS = {
    "objects": np.array([[None]] * ROWS, dtype=object),
    "whole numbers": np.ones((ROWS, 16), np.int64),
    "words": np.full((ROWS, 16), "a"),
    "complex": np.ones((ROWS, 16), np.complex64),
    "dates": np.zeros((ROWS, 16), "M8[s]"),
    "a structure": np.zeros(ROWS, "f4,f4"),
    "one axis": np.ones(ROWS, np.float32),
    "three axes": np.ones((ROWS, 4, 4), np.float32),
    "a number": np.float32(3),
    "too few": np.ones((ROWS - 1, 16), np.float32),
    "too many": np.ones((ROWS + 1, 16), np.float32),
    "none": np.ones((0, 16), np.float32),
}


@pytest.mark.parametrize("mapped_from", [0, npz.MAPPED_FROM])
@pytest.mark.parametrize("kind", list(WRONG_ARRAYS))
def test_arrays_of_another_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mapped_from: int) -> None:
    monkeypatch.setattr(npz, "MAPPED_FROM", mapped_from)
    write_feature_file(tmp_path, "l14", "0", parse_uids(UIDS), [""] * ROWS, FEATURES, FEATURES)
    np.savez(tmp_path / "0.npz", l14_img=WRONG_ARRAYS[kind], l14_txt=FEATURES)
    assert outcome(FeatureFile(str(tmp_path / "0.parquet"), "l14").image, tmp_path / "0.npz") is None


@pytest.mark.parametrize("mapped_from", [0, npz.MAPPED_FROM])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_an_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: Path, stranger: str, mapped_from: int
) -> None:
    """The archive is whole, and has their checksum."""
    monkeypatch.setattr(npz, "MAPPED_FROM", mapped_from)
    with zipfile.ZipFile(tmp_path / "0.npz", "w") as archive:
        archive.writestr("l14_img.npy", strangers(mark)[stranger])
    assert outcome(lambda: npz.read_array(str(tmp_path / "0.npz"), "l14_img"), tmp_path / "0.npz") is None


WRONG_UIDS = {
    "bytes": pa.array([b"\xff" * 16] * 3),
    "lists": pa.array([["a"], [], None]),
    "nothing": pa.array([None, None, None], pa.string()),
    "null": pa.nulls(3),
    "dates": pa.array([1, 2, 3], pa.timestamp("s")),
    "long": pa.array(["0" * 33] * 3),
    "words": pa.array(["cat", "dog", "é"]),
    "records": pa.array([{"a": 1}] * 3),
    "blank": pa.array(["", " ", "\t"]),
    "halves": pa.array([1.5, 2.5, 3.5], pa.float16()),
}


@pytest.mark.parametrize("kind", list(WRONG_UIDS))
def test_uids_of_another_kind(tmp_path: Path, kind: str) -> None:
    pq.write_table(pa.table({"uid": WRONG_UIDS[kind]}), tmp_path / "0.parquet")
    assert outcome(FeatureFile(str(tmp_path / "0.parquet")).uids, tmp_path / "0.parquet") is None


SORTED = np.sort(parse_uids(UIDS))
TEXT = "".join(f"{uid}\n" for uid in UIDS).encode()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _num_unknown(found: list[str]) -> int:
    return len(set(found) - set(UIDS))


@pytest.mark.parametrize("seed", range(2 * NUM_WAYS))
@pytest.mark.parametrize("form", ["npy", "txt", "raw"])
def test_subsets(tmp_path: Path, form: str, seed: int) -> None:
    """None of the forms has a checksum: uids in bytes that were changed are others. All else is refused or as it was:
    no more unknown uids than were touched."""
    path = tmp_path / f"subset.{form}"
    whole = {"npy": _npy(SORTED), "txt": TEXT, "raw": SORTED.tobytes()}[form]
    mutation = mutate(whole, seed, block={"txt": 33}.get(form, 16))
    path.write_bytes(mutation.data)
    found = outcome(lambda: format_uids(Subset.load(path).uids), path)
    if found is not None:
        width = {"txt": 33}.get(form, 16)
        touched = sum((high - low) // width + 2 for low, high in mutation.spans)
        assert _num_unknown(found) <= touched, mutation.what
        assert found == sorted(found)


@pytest.mark.parametrize("name", ["subset.npy", "subset.txt", "subset"])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_a_subset(tmp_path: Path, mark: Path, name: str, stranger: str) -> None:
    """Raw uids are any bytes, as many as 16 divides."""
    content = strangers(mark)[stranger]
    (tmp_path / name).write_bytes(content)
    found = outcome(lambda: Subset.load(tmp_path / name), tmp_path / name)
    is_raw = not name.endswith(".npy") and len(content) % 16 == 0
    assert found is None or is_raw


TARGETS: dict[str, Callable[[Path], None]] = {
    "t.npy": lambda path: np.save(path, FEATURES),
    "t.npz": lambda path: np.savez(path, l14_img=FEATURES),
    "t.pt": lambda path: torch.save(torch.from_numpy(FEATURES), path),
    "old.pt": lambda path: torch.save(torch.from_numpy(FEATURES), path, _use_new_zipfile_serialization=False),
    "two/0.npy": lambda path: np.save(path, FEATURES),
}
WITHOUT_CHECKSUM = ("t.npy", "old.pt", "two/0.npy")


@pytest.mark.parametrize("seed", range(NUM_WAYS))
@pytest.mark.parametrize("name", list(TARGETS))
def test_targets(tmp_path: Path, name: str, seed: int) -> None:
    """Archives (.npz, .pt) have checksums. An array alone and torch's old files have none: their numbers are taken."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    TARGETS[name](path)
    if name.startswith("two"):
        np.save(path.with_name("1.npy"), FEATURES)
    mutation = mutate(path.read_bytes(), seed)
    path.write_bytes(mutation.data)
    source = path if path.parent == tmp_path else path.parent
    found = outcome(lambda: load_target(str(source), None, "l14", tmp_path, CPU), source)
    if found is not None and name not in WITHOUT_CHECKSUM:
        assert found.tolist() == FEATURES.tolist(), mutation.what
    if found is not None and found.shape != (ROWS * (2 if name.startswith("two") else 1), 16):
        assert mutation.touches(0, 128), mutation.what  # of a .npy only the header says how many


@pytest.mark.parametrize("name", ["t.npy", "t.npz", "t.pt", "t.pth"])
@pytest.mark.parametrize("stranger", list(strangers(Path())))
def test_strangers_in_place_of_a_target(tmp_path: Path, mark: Path, name: str, stranger: str) -> None:
    (tmp_path / name).write_bytes(strangers(mark)[stranger])
    assert outcome(lambda: load_target(str(tmp_path / name), None, "l14", tmp_path, CPU), tmp_path / name) is None


@pytest.mark.parametrize("kind", [kind for kind in WRONG_ARRAYS if not kind.startswith("too")])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_targets_of_another_kind(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    np.savez(path, l14_img=WRONG_ARRAYS[kind]) if suffix == "npz" else np.save(path, WRONG_ARRAYS[kind])
    assert outcome(lambda: load_target(str(path), None, "l14", tmp_path, CPU), path) is None
