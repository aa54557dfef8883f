"""Where the candidates are: tar shards and metadata files, on a disk or behind any fsspec address."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import fsspec
from braceexpand import braceexpand

from clipsift_common.errors import ClipsiftError
from clipsift_common.files import fingerprint
from selection.pool.packed import SHARD_SUFFIXES, bare_name, without_unpacked


@dataclass(frozen=True)
class Shard:
    """One tar. ``name`` is its path below the pool without the suffix, ``/`` as ``_``: unique in the pool."""

    url: str
    name: str


@dataclass
class Pool:
    """All candidate pairs at ``location``.

    ``location`` is one of: a DataComp download (``shards/`` and ``metadata/``), a folder of tars, a folder of metadata
    alone (parquet and npz, no tars), a glob, a brace range (``/data/{00000000..00000127}.tar``), any of them behind an
    fsspec address (``s3://bucket/pool``), commands that print a tar (``pipe:ssh host cat {000..127}.tar``), or
    several of these joined by ``::``.

    Raises:
        ClipsiftError: when there is nothing there, or two shards would have one name.
    """

    location: str
    shards: list[Shard] = field(init=False)
    metadata: list[str] = field(init=False)  # parquet files, sorted by name

    def __post_init__(self) -> None:
        self.shards, self.metadata = [], []
        for part in str(self.location).split("::"):
            shards, metadata = _discover(part)
            self.shards += shards
            self.metadata += metadata
        if not self.shards and not self.metadata:
            raise ClipsiftError(f"pool: no .tar shards and no metadata at {self.location}")
        for kind, names in (
            ("shards", [shard.name for shard in self.shards]),
            ("metadata files", [stem(path) for path in self.metadata]),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
            if repeated:
                raise ClipsiftError(f"pool: {self.location} has several {kind} named {repeated[0]}; rename them")


def stem(path: str) -> str:
    """``a/b/0001.parquet`` -> ``0001``."""
    return PurePosixPath(path).stem


def _discover(location: str) -> tuple[list[Shard], list[str]]:
    if location.startswith("pipe:"):
        return [Shard(command, _name_of_command(command)) for command in braceexpand(location)], []
    if "{" in location or "*" in location or location.lower().endswith(SHARD_SUFFIXES):
        return _from_pattern(location), []
    fs, root = fsspec.core.url_to_fs(location)
    if not fs.isdir(root):
        raise ClipsiftError(f"pool: {location} does not exist")
    names = {PurePosixPath(path).name for path in fs.ls(root, detail=False)}
    shard_root = f"{root}/shards" if "shards" in names else root
    tars = _tars(fs, f"{shard_root}/*") or _tars(fs, f"{shard_root}/**/*")
    metadata_root = f"{root}/metadata" if "metadata" in names else None if tars else root
    metadata = sorted(fs.glob(f"{metadata_root}/*.parquet"), key=stem) if metadata_root else []
    shards = [Shard(_url(fs, tar), _name(tar, shard_root)) for tar in tars]
    return shards, [_url(fs, path) for path in metadata]


def _tars(fs: fsspec.AbstractFileSystem, pattern: str) -> list[str]:
    return without_unpacked(sorted(path for path in fs.glob(pattern) if path.lower().endswith(SHARD_SUFFIXES)))


def _from_pattern(pattern: str) -> list[Shard]:
    shards = []
    for path in braceexpand(pattern):
        fs, local = fsspec.core.url_to_fs(path)
        found = sorted(fs.glob(local)) if "*" in local else [local]
        if not found or ("://" not in path and not fs.exists(found[0])):  # one that is remote will be asked for anyway
            raise ClipsiftError(f"pool: {path} does not exist")
        shards += [Shard(_url(fs, tar), PurePosixPath(bare_name(tar)).name) for tar in found]
    return shards


def _name_of_command(command: str) -> str:
    """The stem of the last tar that a command names, else a hash of it."""
    tars = re.findall(r"([^\s/'\"]+)\.tar\b", command)
    return tars[-1] if tars else fingerprint(command)


def _url(fs: fsspec.AbstractFileSystem, path: str) -> str:
    """A path that opens on its own: plain for local files, with its protocol otherwise."""
    return path if isinstance(fs, fsspec.implementations.local.LocalFileSystem) else str(fs.unstrip_protocol(path))


def _name(tar: str, root: str) -> str:
    relative = PurePosixPath(tar).relative_to(PurePosixPath(root.lstrip("/") if not tar.startswith("/") else root))
    return bare_name(str(relative)).replace("/", "_")
