"""A copy of a pool of any shape has the pool's samples, by ``tarfile`` and by the pool's own reader."""

from __future__ import annotations

import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.parquets import converted_table, hub_table, rows_of, write_parquet
from helpers.pictures import picture
from helpers.pools import sample
from helpers.tars import Members, write_tar
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.reshard import reshard
from selection.samples.fields import Fields
from selection.subset import Subset
from selection.uids import format_uids

COUNT = 7


def plain() -> Members:
    return [member for number in range(COUNT) for member in sample(f"k{number:04d}", number + 1)]


def without_uid(document: bytes | None) -> Members:
    return [m for number in range(COUNT) for m in sample(f"k{number:04d}", number + 1, json=document)]


def with_sha() -> Members:
    documents = [json.dumps({"sha": f"{number + 100:032x}"}).encode() for number in range(COUNT)]
    return [m for number in range(COUNT) for m in sample(f"k{number:04d}", number + 1, json=documents[number])]


def named(image: str, caption: str) -> Members:
    return [
        member
        for number in range(COUNT)
        for member in (
            (f"k{number}.{image}", picture(number + 1)),
            (f"k{number}.{caption}", f"picture number {number + 1}".encode()),
        )
    ]


def in_json(extension: str) -> Members:
    documents = [json.dumps({"caption": f"picture number {number + 1}", "n": number}) for number in range(COUNT)]
    parts = [(f"k{number}.jpg", picture(number + 1)) for number in range(COUNT)]
    return [m for n, part in enumerate(parts) for m in (part, (f"k{n}.{extension}", documents[n].encode()))]


def one_tar(members: Members) -> Callable[[Path], Any]:
    return lambda pool: write_tar(pool / "0.tar", members)


def packed(pool: Path) -> None:
    path = write_tar(pool / "0.tar", plain())
    (pool / "0.tar.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def joined(pool: Path) -> None:
    parts = [write_tar(pool / f"{number}.tar", members) for number, members in enumerate((plain()[:9], plain()[9:]))]
    parts[0].write_bytes(b"".join(part.read_bytes() for part in parts))
    parts[1].unlink()


def parquet(table: Callable[[Any], Any]) -> Callable[[Path], None]:
    def make(pool: Path) -> None:
        path = write_tar(pool / "0.tar", plain())
        write_parquet(pool / "0.parquet", table(rows_of(path)))
        path.unlink()

    return make


SHAPES: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "plain": (one_tar(plain()), {}),
    "gzip": (packed, {}),
    "joined with cat": (joined, {}),
    "by kind": (one_tar(sorted(plain(), key=lambda member: member[0].partition(".")[2])), {}),
    "no json": (one_tar(without_uid(None)), {}),
    "a json without uid": (one_tar(without_uid(b'{"url": "x", "uid": null}')), {}),
    "a json that is a list": (one_tar(without_uid(b"[1, 2]")), {}),
    "a uid elsewhere in the json": (one_tar(with_sha()), {"uid": ["json:sha"]}),
    "compound names": (one_tar(named("input.jpg", "outputs.txt")), {}),
    "names of one's own": (one_tar(named("photo", "alt")), {"image": ["photo"], "caption": ["alt"]}),
    "captions in the json": (one_tar(in_json("json")), {}),
    "captions in a compound json": (one_tar(in_json("meta.json")), {}),
    "keys with dots": (one_tar([(name.replace("k", "k.v1."), data) for name, data in plain()]), {"keys": "last_dot"}),
    "features beside": (one_tar([*plain(), *((f"k{n:04d}.img_emb.npy", b"x") for n in range(COUNT))]), {}),
    "the Hub's parquet": (parquet(hub_table), {}),
    "a parquet made of tars": (parquet(converted_table), {}),
    "a parquet's other columns": (parquet(hub_table), {"caption": ["url", "text"], "uid": ["uid"]}),
}


def by_tarfile(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Uid of the key, and of the json -> picture and caption."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, extension = member.name.split(".", 1)
                found.setdefault(key.split("-")[0], {})[extension] = tar.extractfile(member).read()  # type: ignore[union-attr]
    pairs = {}
    for uid, parts in found.items():
        document = json.loads(next(data for name, data in parts.items() if name.endswith("json")))
        assert document["uid"].zfill(32) == uid
        image = next(data for name, data in parts.items() if data.startswith(b"\xff\xd8"))
        texts = [data.decode() for name, data in parts.items() if name.split(".")[-1] in ("txt", "alt")]
        pairs[uid] = (image, texts[0] if texts else document["caption"])
    return pairs


def pairs_of(index: PoolIndex) -> dict[str, tuple[bytes, str]]:
    samples = [index.read(row) for row in range(len(index))]
    return {sample.uid: (sample.image, sample.caption) for sample in samples}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_has_the_samples_of_the_pool(tmp_path: Path, shape: str) -> None:
    make, fields = SHAPES[shape]
    make(tmp_path / "pool")
    pool = PoolIndex.build(Pool(str(tmp_path / "pool"), Fields(**fields)), tmp_path / "cache", max_loss=0.0)
    assert len(pool) == COUNT
    chosen = np.sort(pool.uids[1:])
    reshard(pool, Subset(chosen), tmp_path / "out", shard_size=4)
    expected = {uid: pair for uid, pair in pairs_of(pool).items() if uid in set(format_uids(chosen))}
    assert len(expected) == COUNT - 1
    assert by_tarfile(tmp_path / "out") == expected
    again = Fields(image=fields["image"], caption=fields["caption"]) if "image" in fields else Fields()
    copy = PoolIndex.build(Pool(str(tmp_path / "out"), again), tmp_path / "other", max_loss=0.0)
    assert pairs_of(copy) == expected
