"""The verb ``target``: the features that scores and methods compare a pool with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch

from clipsift_app.verb_settings import parse_settings
from clipsift_common.clip import load_clip
from clipsift_common.distributed import on_rank_zero
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.locks import hold
from clipsift_common.machine import Machine, device_of
from clipsift_common.progress import say
from evaluation.class_prompts import class_prompt_features
from evaluation.tasks import TASKS
from selection.centroids import make_centroids
from selection.features.target import write_features
from selection.features.target_sets import embed_target, target_sets
from selection.pool.location import Pool

PROMPTS = "_prompts"  # behind the key of an evaluation task
CENTROIDS = "pool_centroids"


@dataclass
class TargetSettings:
    """Which target, and where it goes: a ``.npy``, or a folder for one of several sets.

    ``imagenet1k``, ``target24``: train images below ``data``, by the CLIP ``model`` with ``pretrained``.
    ``imagenet1k_prompts`` (or another evaluation task's): class prompts by that CLIP. ``pool_centroids``: k-means of
    the image ``features`` that the metadata of ``pool`` has, ``clusters`` of them.
    """

    name: str
    out: str
    data: str | None = None
    model: str | None = None
    pretrained: str | None = None
    pool: str | None = None
    features: str | None = None
    clusters: int = 100_000
    seed: int = 0
    trainer: Machine = field(default_factory=Machine)


def run(arguments: list[str]) -> None:
    settings = parse_settings(TargetSettings, arguments, positional="name")
    check_settings(settings)
    out = Path(settings.out)
    if settings.name == CENTROIDS:
        device = _start(settings, out)
        pool = Pool.shared(str(settings.pool))
        make_centroids(pool, str(settings.features), settings.clusters, out, device, settings.seed)
        return say(f"target: {settings.clusters:,} centroids in {out}")
    clip = load_clip(str(settings.model), settings.pretrained)
    device = _start(settings, out)
    if settings.name in target_sets():
        files = embed_target(settings.name, Path(str(settings.data)), clip, out, device)
        return say(f"target: {len(files)} file{'s' if len(files) > 1 else ''} of {settings.name} in {out}")
    features = class_prompt_features(settings.name.removesuffix(PROMPTS), clip, device)
    _write(out, features)
    say(f"target: the prompts of {len(features):,} classes in {out}")


def _start(settings: TargetSettings, out: Path) -> torch.device:
    """Start the processes and keep the folder to them; this one's device."""
    machine = launch(settings.trainer)
    hold(out.parent if out.suffix == ".npy" else out)
    return device_of(machine)


def check_settings(settings: TargetSettings) -> None:
    """Refuse a name that is unknown and settings that do not go with it."""
    name, known = settings.name, [*target_sets(), f"imagenet1k{PROMPTS}", CENTROIDS]
    is_prompts = name.endswith(PROMPTS) and name.removesuffix(PROMPTS) in TASKS
    if name not in known and not is_prompts:
        raise ClipsiftError(f"target: none is named {name} (there are {', '.join(known)})")
    needed = ("pool", "features") if name == CENTROIDS else ("model",) if is_prompts else ("data", "model")
    missing = [f"--{key}" for key in needed if getattr(settings, key) is None]
    if missing:
        raise ClipsiftError(f"target: {name} needs {', '.join(missing)}")
    if (name == CENTROIDS or is_prompts) and not settings.out.endswith(".npy"):
        raise ClipsiftError(f"target: {name} is one file; --out must end in .npy, got {settings.out}")
    if settings.clusters < 1:
        raise ClipsiftError(f"target: --clusters is at least 1, got {settings.clusters}")


def _write(out: Path, features: torch.Tensor) -> None:
    on_rank_zero(lambda: write_features(out, features.cpu().numpy()))
