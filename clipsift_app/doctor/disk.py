"""Is there room for what the run will write?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from clipsift_app.doctor.finding import Finding, evenly, size
from clipsift_app.settings import RunSettings
from clipsift_common.clip import create_clip, model_config
from selection.pool.index import SHARD_CACHE_GB
from selection.pool.location import Pool
from selection.pool.packed.shards import is_packed
from selection.pool.remote import is_remote, size_of
from selection.samples.scan import ROW_DTYPE

_UID_BYTES = 36  # of a uid in a parquet file
_WIDTH = 768  # of features whose teacher is not known: OpenAI's ViT-L/14
_ASKED = 32  # shards, for the size of all
_TIGHT = 0.8  # of what is free


def check_disk(run: RunSettings, pool: Pool, num_pool: float) -> list[Finding]:
    """Free space against what is written under ``cache`` and ``out``, file system by file system."""
    needs: dict[int, tuple[Path, dict[str, float]]] = {}
    for place, what, num_bytes in _written(run, pool, num_pool):
        folder = next(parent for parent in (place.absolute(), *place.absolute().parents) if parent.exists())
        needs.setdefault(folder.stat().st_dev, (folder, {}))[1][what] = num_bytes
    return [_compare(folder, parts) for folder, parts in needs.values()]


def _compare(folder: Path, parts: dict[str, float]) -> Finding:
    need, free = sum(parts.values()), shutil.disk_usage(folder).free
    largest = ", ".join(f"{what} {size(parts[what])}" for what in sorted(parts, key=lambda what: -parts[what])[:3])
    text = f"{folder}: {size(need)} to be written ({largest}), {size(free)} free"
    if need > free:
        return Finding("disk", "fail", text, f"free {size(need - free)}, or put --out and --cache elsewhere")
    if need > _TIGHT * free:
        return Finding("disk", "warn", text, "make room: others may write there too")
    return Finding("disk", "ok", text)


def _written(run: RunSettings, pool: Pool, num_pool: float) -> Iterator[tuple[Path, str, float]]:
    """Where, what, how many bytes at the most; what exists already is counted again."""
    recipe = run.selection.check(run.trusted)
    teacher = run.selection.teacher
    width = _width(teacher.model) if teacher else _WIDTH
    if pool.shards:
        yield run.cache, "index", 2 * ROW_DTYPE.itemsize * num_pool  # shard by shard, and joined
    left = 1e9 * run.data.get("shard_cache_gb", SHARD_CACHE_GB)
    packed = [shard.url for shard in pool.shards if is_packed(shard.url) and not is_remote(shard.url)]
    remote = [shard.url for shard in pool.shards if is_remote(shard.url)]
    for what, urls in (("unpacked shards", packed), ("fetched shards", remote)):
        if urls:
            yield run.cache, what, (need := min(left, _bytes_of(urls)))  # pictures hardly grow
            left -= need
    if recipe.needs_features and teacher:
        yield run.cache, "features", (2 * width * 2 + _UID_BYTES) * num_pool
    columns = len(recipe.columns)
    yield run.cache, "scores kept", columns * (_UID_BYTES + 4) * num_pool
    yield run.out, "scores", (_UID_BYTES + 4 * columns) * num_pool
    if recipe.gathers_features:
        left = min([1.0, *(step.keep for step in recipe.steps[: recipe.num_streamed] if step.keep)])
        yield run.out, "features of a set method", 2 * width * 2 * left * num_pool
    weights = 4 * num_parameters(run.model["model"])
    # Weights and both of Adam's moments; the next checkpoint is whole before the last one goes.
    yield run.out, "checkpoints", 2 * 3 * weights + weights


def _bytes_of(urls: list[str]) -> float:
    """About, by the size of some: each may take a request."""
    some = evenly(urls, min(len(urls), _ASKED))
    with ThreadPoolExecutor(_ASKED) as threads:
        known = [found for found in threads.map(size_of, some) if found is not None]
    return sum(known) / max(len(known), 1) * len(urls)


def num_parameters(model: str) -> int:
    """Of an architecture, without making its weights."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in create_clip(model, device="meta").parameters())


def _width(model: str) -> int:
    return _WIDTH if Path(model).is_dir() else int(model_config(model)["embed_dim"])
