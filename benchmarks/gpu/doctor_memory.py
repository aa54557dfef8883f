"""Part 7: what doctor says a step takes, against what it takes; memory that runs out as a finding."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.pools import architecture, make_pool
from benchmarks.gpu.rows import Row, at_least, at_most, holds, measured
from clipsift_app.doctor.finding import Finding
from clipsift_app.doctor.shards import read_some
from clipsift_app.doctor.step import Material, Trial, check_step, read_samples
from clipsift_app.parsing import parse_run
from clipsift_app.settings import RunSettings
from clipsift_common.launch import launch
from clipsift_common.machine import LaunchedMachine
from selection.pool.location import Pool


def run(small: bool, folder: Path) -> Iterator[Row]:
    pool = make_pool(folder / "pool", 64)
    model, batch = ("tiny", 16) if small else ("ViT-B-32", 512)
    settings = _settings(folder, pool, architecture(model, folder), batch, small)
    material, machine = _material(settings, pool, folder), launch(settings.machine)
    *_, memory = Trial(settings, machine, material).small_steps(8, 16 if small else 32)
    estimate = memory.bytes(batch, 1)
    yield measured(f"a batch of {batch:,}, worked out from two small steps, GB", estimate / 1e9)
    if not small:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = next(finding for finding in check_step(settings, machine, material) if finding.check == "memory")
    yield holds(f"a batch of {batch:,} fits, doctor says", found.status == "ok", found.text)
    if not small:
        peak = torch.cuda.max_memory_allocated()
        yield measured("peak of the trial, GB", peak / 1e9)
        yield at_least("worked out, share of the peak", estimate / peak, 0.8)
        yield at_most("worked out, share of the peak ", estimate / peak, 1.25)
        yield from _running_out(settings, machine, material, peak)
    huge = _settings(folder, pool, architecture(model, folder), 1 << 20, small)
    found = check_step(huge, machine, material)[0]
    yield holds("a batch that cannot fit is a finding with a remedy", _is_refusal(found), _said(found))


def _running_out(settings: RunSettings, machine: LaunchedMachine, material: Material, peak: int) -> Iterator[Row]:
    """A step that runs out of memory although there seemed to be enough: the process may take half of what it needs."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.5 * peak / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = check_step(settings, machine, material)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    good = _is_refusal(found) and "ran out of memory" in found.text
    yield holds("out of memory in a step is a finding with a remedy", good, _said(found))


def _said(finding: Finding) -> str:
    return f"{finding.text}; {finding.remedy}"


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
