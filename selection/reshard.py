"""A subset as new shards: the copy that training on the fly does without, for those who want it.

Does what DataComp's resharder does: each sample as often as its uid occurs in the subset, with the keys ``<uid>-<j>``,
members copied as bytes, 10,000 samples to a shard, ``{08d}_stats.json`` beside each, ``sample_ids.npy`` and
``meta.json``. Other than there, samples are in pool order whatever the number of processes, only the last shard is
short, and a start after an interruption makes what is missing.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipsift_common.distributed import barrier, on_rank_zero, rank, world_size
from clipsift_common.errors import ClipsiftError
from clipsift_common.files import array_fingerprint, atomic_path, fingerprint, read_json, write_json
from clipsift_common.progress import Progress
from clipsift_common.tar_samples import TarReader, TarSample, join_samples
from selection.pool.index import PoolIndex
from selection.samples.parts import SampleParts
from selection.subset import Subset
from selection.uids import UID_WIDTH, format_uids

logger = logging.getLogger("clipsift")

SHARD_SIZE = 10_000  # samples


@dataclass(frozen=True)
class _Copy:
    """A sample to write: its row in the index, and the how-manieth copy it is."""

    row: int
    uid: str
    number: int


def reshard(index: PoolIndex, subset: Subset, out: Path, shard_size: int = SHARD_SIZE) -> dict[str, Any]:
    """Write the subset's samples that are in the pool as shards under ``out``; a collective call, shards over ranks.

    A sample whose json has no uid, or that came without one, gets its uid in its json. Shards that are whole are kept.

    Returns:
        The content of ``meta.json``: samples ``kept`` (copies counted), ``unique``, ``missing`` (uids of the subset
        that the pool does not have), ``shards``, and where they are from.

    Raises:
        ClipsiftError: when nothing of the subset is in the pool, ``out`` holds another export, or a source shard is not
            the one that was indexed.
    """
    if shard_size < 1:
        raise ClipsiftError(f"shard_size is at least 1, got {shard_size}")
    rows = index.rows_of(subset)
    if not len(rows):
        raise ClipsiftError(f"reshard: none of the subset's {len(subset)} uids is in the pool")
    num_unique = len(np.unique(rows))
    num_shards = -(-len(rows) // shard_size)
    about: dict[str, Any] = {
        "kept": len(rows),
        "unique": num_unique,
        "missing": len(subset.unique) - num_unique,
        "shards": num_shards,
    }
    about |= {"pool": index.fingerprint, "subset": array_fingerprint(subset.uids), "shard_size": shard_size}
    on_rank_zero(lambda: _claim(out, about, subset))
    with Progress("reshard", len(rows), "samples") as progress:
        for number in range(rank(), num_shards, world_size()):
            part = rows[number * shard_size : (number + 1) * shard_size]
            if (out / f"{number:08d}_stats.json").is_file():
                progress.resume(progress.done + len(part))
                continue
            _write_shard(index, _copies(index, rows, number * shard_size, len(part)), out / f"{number:08d}.tar")
            write_json(out / f"{number:08d}_stats.json", {"successes": len(part)})
            progress.advance(len(part))
    barrier()
    if about["missing"]:
        logger.warning("reshard: %s uids of the subset are not in the pool", f"{about['missing']:,}")
    on_rank_zero(lambda: write_json(out / "meta.json", about))
    return about


def _claim(out: Path, about: dict[str, Any], subset: Subset) -> None:
    """Make ``out`` the place of this export, or see that it is."""
    mark, identity = out / ".reshard.json", fingerprint(about)
    if not mark.is_file():
        if out.is_dir() and any(out.glob("*.tar")):
            raise ClipsiftError(f"{out}: holds shards already; use another --out")
        subset.save(out / "sample_ids.npy")
        write_json(mark, {"identity": identity})
    if read_json(mark)["identity"] != identity:
        raise ClipsiftError(f"{out}: holds shards of another pool, subset or size; use another --out or delete it")


def _copies(index: PoolIndex, rows: np.ndarray, start: int, count: int) -> list[_Copy]:
    first = start - int(np.searchsorted(rows, rows[start]))  # copies of the first sample in the shard before
    copies: list[_Copy] = []
    chosen = rows[start : start + count]
    for row, uid in zip(chosen.tolist(), format_uids(index.uids_of(chosen))):
        number = copies[-1].number + 1 if copies and copies[-1].row == row else 0 if copies else first
        copies.append(_Copy(row, uid, number))
    return copies


def _write_shard(index: PoolIndex, copies: list[_Copy], path: Path) -> None:
    with atomic_path(path) as temporary, tarfile.open(temporary, "w") as tar:
        at = 0
        while at < len(copies):
            number = int(index.entries([copies[at].row])["shard"][0])
            stop = at
            while stop < len(copies) and copies[stop].row in index.shard_rows(number):
                stop += 1
            _copy_from(index, number, copies[at:stop], tar)
            at = stop


def _copy_from(index: PoolIndex, shard: int, copies: list[_Copy], tar: tarfile.TarFile) -> None:
    """Append ``copies``, all of one source shard and in its order."""
    wanted: dict[int, list[_Copy]] = {}
    for copy, entry in zip(copies, index.entries([copy.row for copy in copies])):
        wanted.setdefault(int(entry["image_offset"]), []).append(copy)
    fields = index.fields_in(shard)
    with index.open_shard(shard) as handle:
        reader = TarReader(handle, fields.extensions(), fields.keys)
        for sample, _ in join_samples(reader, SampleParts(reader, fields).is_whole):
            members = [*sample.parts.values(), *sample.others.values()]
            for copy in next((wanted.pop(at) for member in members if (at := member.offset_data) in wanted), []):
                _append(reader, sample, copy, tar)
            if not wanted:
                return
    lost, url = next(iter(wanted.values()))[0], index.shards[shard].url
    raise ClipsiftError(f"{url}: sample {lost.uid} is not where it was indexed; delete the index to scan again")


def _append(reader: TarReader, sample: TarSample, copy: _Copy, tar: tarfile.TarFile) -> None:
    contents = {extension: reader.read(member) for extension, member in (sample.parts | sample.others).items()}
    jsons = [extension for extension in contents if extension.rpartition(".")[2] == "json"]
    place = jsons[0] if len(jsons) == 1 and "json" not in contents else "json"
    contents[place] = _with_uid(contents.get(place), copy.uid)
    for extension, content in contents.items():
        header = tarfile.TarInfo(f"{copy.uid}-{copy.number}.{extension}")
        header.size = len(content)
        tar.addfile(header, io.BytesIO(content))


def _with_uid(document: bytes | None, uid: str) -> bytes:
    """A sample's json, as it is where its uid is there; so the copy has the uid whatever the pool's was made of."""
    try:
        values = json.loads(document) if document is not None else {}
    except (ValueError, RecursionError):  # nobody needed it
        return document or b""
    if isinstance(values, dict):
        there = str(values.get("uid", "")).replace("-", "").lower().zfill(UID_WIDTH)
        return document if document is not None and there == uid else json.dumps(values | {"uid": uid}).encode()
    return json.dumps({"uid": uid, "json": values}).encode()
