"""Part 5: pairs embedded and images evaluated per second; a teacher in 16 bits; pixels that the GPU decodes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.evaluation import watched
from benchmarks.evaluation_data import make_data
from benchmarks.gpu.pools import PICTURES, make_pool, random_clip
from benchmarks.gpu.programs import LARGE, SHORT, SMALL
from benchmarks.gpu.rows import Row, holds, measured
from benchmarks.gpu_decode import judge
from benchmarks.loader_data import made_up_picture
from benchmarks.precision import demo_arguments, judged, verdict
from clipsift_app.parsing import parse_run
from clipsift_common.launch import launch
from clipsift_common.machine import Machine, device_of
from evaluation import evaluate
from selection.features.embed import embed
from selection.pool.index import PoolIndex
from selection.pool.location import Pool


def run(small: bool, folder: Path) -> Iterator[Row]:
    models, samples = (("tiny",), 64) if small else (("ViT-B-32", "ViT-L-14"), 8_000)
    machine = launch(Machine("cpu" if small else "gpu", 1))
    pool, workers = make_pool(folder / "pool", samples), 0 if small else len(os.sched_getaffinity(0))
    index = PoolIndex.build(Pool(str(pool)), folder / "cache", workers)
    for model in models:
        for precision in ("32-true", "bf16-mixed"):
            start = time.perf_counter()
            out = folder / f"{model}-{precision}"
            embed(index, random_clip(model, folder), out, "x", machine, 256, workers, precision)
            yield measured(f"{model}, {precision}: pairs embedded per second", samples / (time.perf_counter() - start))
    images = 20 if small else 4_000
    data = folder / "evalsets"
    if not data.is_dir():
        make_data(data, classes=20 if small else 1000, images=images)
    for model in models[:1]:
        start = time.perf_counter()
        clip = random_clip(model, folder)
        with watched() as waits:
            results = evaluate(clip, data, None, None, workers=workers, batch_size=256, machine=machine)
        seconds = time.perf_counter() - start
        done = sum(result["num_samples"] for result in results)
        yield measured(f"{model}: images evaluated per second", done / seconds)
        yield measured(f"{model}: share of waiting, workers' start included", sum(waits) / seconds)
    distances, refused = judge(
        [made_up_picture(number) for number in range(8 if small else PICTURES)], device_of(machine)
    )
    for decode, distance in distances.items():
        yield measured(f"decode {decode}: from open_clip's pixels, of 255", str(distance))
    yield holds("no made-up JPEG is refused", refused == 0, str(refused))
    yield from _precisions(small, folder / "demo")


def _precisions(small: bool, folder: Path) -> Iterator[Row]:
    """By the demo's teacher, trained here: a real one is judged by ``benchmarks/precision.py``."""
    arguments = demo_arguments(folder, 0, **(SMALL if small else LARGE)) + (SHORT if small else [])
    arguments += [f"--trainer.accelerator={'cpu' if small else 'gpu'}", "--trainer.devices=1"]
    for precision, found in judged(parse_run(arguments, needs_eval=False)):
        least, follows = verdict(found)
        yield measured(f"demo's teacher, {precision}: least share of a float32 subset", f"{least:.4f}, {follows}")
