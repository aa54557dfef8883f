"""The verb ``reshard``: a subset as new shards."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipsift_app.paths import subset_file
from clipsift_app.verb_settings import parse_settings
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from clipsift_common.machine import Machine
from clipsift_common.progress import say
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.reshard import SHARD_SIZE, reshard
from selection.samples.fields import Fields
from selection.subset import Subset


@dataclass
class ReshardSettings:
    """Which samples of which pool become shards of their own under ``out``; ``cache`` holds the pool's index."""

    pool: str
    subset: str
    out: str
    cache: str | None = None
    shard_size: int = SHARD_SIZE
    workers: int = 2
    max_loss: float = 0.01
    fields: Fields = field(default_factory=Fields)
    trainer: Machine = field(default_factory=Machine)


def run(arguments: list[str]) -> None:
    settings = parse_settings(ReshardSettings, arguments)
    subset = Subset.load(subset_file(settings.subset))
    launch(settings.trainer)
    pool = Pool.shared(settings.pool, settings.fields)
    hold(Path(settings.out))
    cache = Path(settings.cache or f"{settings.out}/.cache")
    index = PoolIndex.build(pool, cache, settings.workers, settings.max_loss)
    about = reshard(index, subset, Path(settings.out), settings.shard_size)
    say(f"reshard: {about['kept']:,} samples in {about['shards']:,} shards: {settings.out}")
