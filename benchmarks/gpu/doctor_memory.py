"""Part 7: what doctor says a step takes, against what it takes; memory that runs out as a finding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.pools import architecture, make_pool
from benchmarks.gpu.rows import Row, at_least, at_most, holds, measured
from clipsift_app.doctor.finding import Finding
from clipsift_app.doctor.shards import read_some
from clipsift_app.doctor.step import Material, check_step, read_samples
from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_common.launch import launch
from selection.pool.location import Pool


def run(small: bool, folder: Path) -> Iterator[Row]:
    pool = make_pool(folder / "pool", 64)
    model, batch = ("tiny", 16) if small else ("ViT-B-32", 512)
    settings = _settings(folder, pool, architecture(model, folder), batch, small)
    material = _material(settings, pool, folder)
    if not small:
        torch.cuda.reset_peak_memory_stats()
    findings = {finding.check: finding for finding in check_step(settings, launch(settings.machine), material)}
    memory = findings["memory"]
    yield holds(f"a batch of {batch:,} fits, doctor says", memory.status == "ok", memory.text)
    if not small:
        said, peak = _gigabytes(memory.text), torch.cuda.max_memory_allocated() / 1e9
        yield measured("peak of the trial, GB", peak)
        yield at_least("doctor's figure, share of the peak", said / peak, 0.8)
        yield at_most("doctor's figure, share of the peak ", said / peak, 1.6)
    huge = _settings(folder, pool, architecture(model, folder), 1 << 20, small)
    found = check_step(huge, launch(huge.machine), material)[0]
    detail = f"{found.text}; {found.remedy}"
    yield holds("a batch that cannot fit is a finding with a remedy", _is_refusal(found), detail)


def _is_refusal(finding: Finding) -> bool:
    return finding.check == "memory" and finding.status == "fail" and bool(finding.remedy)


def _settings(folder: Path, pool: Path, model: str, batch: int, small: bool) -> RunSettings:
    arguments = [f"--pool={pool}", f"--out={folder / 'run'}", f"--model.model={model}", "--model.lr=1e-4"]
    arguments += ["--model.warmup=1", f"--data.samples_seen={2 * batch}", f"--data.global_batch={batch}"]
    arguments += [f"--trainer.accelerator={'cpu' if small else 'gpu'}", "--trainer.devices=1", "--data.workers=1"]
    return parse_run(arguments, needs_eval=False)


def _material(settings: RunSettings, pool: Path, folder: Path) -> Material:
    _, index = read_some(settings, Pool(str(pool)), None, folder / "index")
    assert index is not None
    _, material = read_samples(settings, index)
    assert material is not None
    return material


def _gigabytes(text: str) -> float:
    """The first size in a finding's text, in GB."""
    units = {"GB": 1.0, "MB": 1e-3, "TB": 1e3, "GiB": 1.074, "MiB": 1.05e-3}
    words = text.replace(",", "").split()
    at = next(number for number, word in enumerate(words) if word in units)
    return float(words[at - 1]) * units[words[at]]
