"""The verb ``target``: features of target sets for recipes to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from clipsift_app.verb_settings import parse_settings
from clipsift_common.clip import load_clip
from clipsift_common.machine import Machine, device_of, launch
from clipsift_common.progress import say
from selection.features.target_sets import embed_target


@dataclass
class TargetSettings:
    """Features of the train images of several evaluation sets, which lie under ``data``, as a target for recipes."""

    name: str
    data: str
    model: str
    pretrained: str | None
    out: str
    trainer: Machine = field(default_factory=Machine)


def run(arguments: list[str]) -> None:
    settings = parse_settings(TargetSettings, arguments, positional="name")
    clip = load_clip(settings.model, settings.pretrained)
    device = device_of(launch(settings.trainer))
    files = embed_target(settings.name, Path(settings.data), clip, Path(settings.out), device)
    say(f"target: {len(files)} sets in {settings.out}")
