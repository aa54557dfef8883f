"""A subset as a webdataset stage: other people's loaders train on it straight from the original shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from selection.subset import Subset
from selection.uids import derive_uid, is_uid, parse_uids


class Keep:
    """Keeps a subset's samples of a webdataset stream, before anything of them is decoded.

    Called with the stream it is a stage (``pipeline.compose(keep)``), and gives a sample as often as its uid is in the
    subset, one copy right after the other: shuffle behind it. :meth:`wants` is the test alone, for ``wds.select``;
    it gives every sample once.

    A sample's uid is that of its json. One without is known by its shard and key, as the index of a pool has it: for
    tars below ``root`` by their path from there, else by the name of the tar.
    """

    def __init__(self, subset: Subset | str | Path | np.ndarray | Iterable[str], root: str | None = None) -> None:
        """``subset``: a subset or what :meth:`Subset.of` takes."""
        self.subset = subset if isinstance(subset, Subset) else Subset.of(subset)
        self.root = root

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            for _ in range(self.count(sample)):
                yield dict(sample)

    def wants(self, sample: Mapping[str, Any]) -> bool:
        """Whether an undecoded sample is in the subset."""
        return self.count(sample) > 0

    def count(self, sample: Mapping[str, Any]) -> int:
        """How often it is; 0 for a sample whose json cannot be read or whose uid is no uid."""
        try:
            uid = json.loads(sample["json"])["uid"] if "json" in sample else None
        except (ValueError, TypeError, RecursionError):
            return 0
        except KeyError:
            uid = None
        if uid is None:
            uid = derive_uid(self._shard(sample["__url__"]), sample["__key__"])
        return int(self.subset.multiplicity(parse_uids([uid]))[0]) if is_uid(uid) else 0

    def _shard(self, url: str) -> str:
        """The name that the index gives to the shard at ``url``."""
        path = PurePosixPath(url)
        is_below = self.root is not None and path.is_relative_to(self.root)
        path = path.relative_to(str(self.root)) if is_below else PurePosixPath(path.name)
        return str(path.with_suffix("")).replace("/", "_")
