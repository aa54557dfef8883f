"""The verb ``embed``: a pool's features, in DataComp's metadata layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsift_app.verb_settings import parse_settings
from clipsift_common.clip import load_clip
from clipsift_common.engines.alone import launch_alone
from clipsift_common.engines.base import EngineName, Part
from clipsift_common.engines.on_ray import make_engine
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from clipsift_common.machine import LaunchedMachine, Machine, num_workers
from clipsift_common.progress import say
from selection.features.embed import embed
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.samples.fields import Fields
from selection.settings import Precision


@dataclass
class EmbedSettings:
    """Which pool, with which model, to where. ``name`` prefixes the feature arrays: ``l14`` makes ``l14_img``.

    ``part``: embed this part of the shards alone, such as ``3/200``; when all parts have ended, one start without it
    sees that nothing is missing. ``engine``: who embeds, this launch's processes or the workers of a Ray cluster.
    """

    pool: str
    model: str
    pretrained: str | None
    out: str
    name: str
    batch_size: int = 256
    workers: int | None = None
    precision: Precision = "32-true"
    max_loss: float = 0.01
    part: str | None = None
    engine: EngineName = "group"
    fields: Fields = field(default_factory=Fields)
    trainer: Machine = field(default_factory=Machine)


def run(arguments: list[str]) -> None:
    settings = parse_settings(EmbedSettings, arguments)
    part, machine = _launched(settings)
    pool = Pool.shared(settings.pool, settings.fields)
    max_loss = settings.max_loss
    if part:
        pool, max_loss = pool.part(part.share(pool.shards)), 1.0  # a share of a part's says nothing of the pool's
        if not pool.shards:
            return say(f"embed: part {part}: the pool has fewer shards than parts; there is nothing to do")
    clip = load_clip(settings.model, settings.pretrained)
    out = Path(settings.out)
    hold(out, shared=part is not None)
    workers = num_workers(settings.workers, machine)
    index = PoolIndex.build(pool, out / "cache", workers, max_loss)
    how: dict[str, Any] = {"batch_size": settings.batch_size, "workers": workers, "precision": settings.precision}
    how |= {"engine": make_engine(settings.engine, machine), "part": part}
    files, report = embed(index, clip, out / "metadata", settings.name, machine, **how)
    report.merge(index.report).check(max_loss)
    if part:
        lost = "".join(f"; {count:,} {cause}" for cause, count in report.lost.items())
        return say(f"embed: part {part}: {len(files)} files, {report.samples:,} pairs{lost}")
    say(f"metadata: {len(files)} files in {out / 'metadata'}")


def _launched(settings: EmbedSettings) -> tuple[Part | None, LaunchedMachine]:
    """The part that is asked for, if one is, and the processes, checked before anything is loaded."""
    part = None if settings.part is None else Part.parse(settings.part)
    if part and settings.engine == "ray":
        raise ClipsiftError(f"embed: --part {part} and --engine ray contradict each other; leave one out")
    if part:
        return part, launch_alone(settings.trainer, "--part")
    if settings.engine == "ray":
        return None, launch_alone(settings.trainer, "--engine ray", True)
    return None, launch(settings.trainer)
