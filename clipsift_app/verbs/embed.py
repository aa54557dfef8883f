"""The verb ``embed``: a pool's features, in DataComp's metadata layout."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipsift_app.verb_settings import parse_settings
from clipsift_common.clip import load_clip
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from clipsift_common.machine import Machine, num_workers
from clipsift_common.progress import say
from selection.features.embed import embed
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.samples.fields import Fields
from selection.settings import Precision


@dataclass
class EmbedSettings:
    """Which pool, with which model, to where. ``name`` prefixes the feature arrays: ``l14`` makes ``l14_img``."""

    pool: str
    model: str
    pretrained: str | None
    out: str
    name: str
    batch_size: int = 256
    workers: int | None = None
    precision: Precision = "32-true"
    max_loss: float = 0.01
    fields: Fields = field(default_factory=Fields)
    trainer: Machine = field(default_factory=Machine)


def run(arguments: list[str]) -> None:
    settings = parse_settings(EmbedSettings, arguments)
    machine = launch(settings.trainer)
    pool = Pool.shared(settings.pool, settings.fields)
    clip = load_clip(settings.model, settings.pretrained)
    out = Path(settings.out)
    hold(out)
    workers = num_workers(settings.workers, machine)
    index = PoolIndex.build(pool, out / "cache", workers, settings.max_loss)
    how: dict[str, Any] = {"batch_size": settings.batch_size, "workers": workers, "precision": settings.precision}
    files, report = embed(index, clip, out / "metadata", settings.name, machine, **how)
    report.merge(index.report).check(settings.max_loss)
    say(f"metadata: {len(files)} files in {out / 'metadata'}")
