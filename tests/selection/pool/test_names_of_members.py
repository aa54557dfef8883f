"""Names of members in another encoding than UTF-8: their samples are used, and reports of them can be written."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from clipsift_common.files import write_text
from helpers.pools import sample
from helpers.tars import write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool

NAMES = ["caf\u00e9", "\u00ff/b", "plain", "caf\u00ea"]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
@pytest.mark.parametrize("with_uid", [True, False])
def test_names_of_any_encoding_are_read(tmp_path: Path, format: int, encoding: str, with_uid: bool) -> None:
    names = [name.encode(encoding).decode(errors="surrogateescape") for name in NAMES]
    members = [
        member
        for number, name in enumerate(names)
        for member in sample(name, number + 1, **({} if with_uid else {"json": None}))
    ]
    broken = "no\u00e9l".encode(encoding).decode(errors="surrogateescape")
    write_tar(tmp_path / "pool" / "0.tar", [*members, *sample(broken, 9, jpg=b"")], format)
    index = PoolIndex.build(Pool(str(tmp_path / "pool")), tmp_path / "cache")
    assert [index.read(row).caption for row in range(len(index))] == [f"picture number {n}" for n in (1, 2, 3, 4)]
    assert len(set(index.uids.tolist())) == 4
    assert index.report.lost == {"broken_image": 1}
    write_text(tmp_path / "report.html", index.report.examples["broken_image"][0]["key"])
