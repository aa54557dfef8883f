"""What the two-process tests run on each rank: ``python two_ranks.py WORKSPACE OUT [GOLDEN]``, or ``... OUT long``.

Writes ``OUT/<job>.<rank>.json`` for each job; ``long`` is a run that waits to be stopped by a signal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from clipsift_common.distributed import rank
from clipsift_common.errors import ClipsiftError
from clipsift_common.launch import launch
from clipsift_common.machine import Machine
from helpers.training_run import FailAt, Faulty, RecordingCLIP, data_options, make_online, train_golden, write_pool
from selection.pool.index import PoolIndex
from selection.pool.location import Pool
from selection.subset import Subset
from training.data import PoolDataModule
from training.fit import fit
from training.guard import MAX_SKIPPED
from training.online import OnlineSelection

LOG_ALL = {"log_every_n_steps": 1}


def main(workspace: Path, out: Path, golden: Path | None) -> None:
    torch.set_num_threads(1)
    machine = launch(Machine(accelerator="cpu", devices=2))

    def train(
        name: str,
        workers: int = 0,
        failing: int | None = None,
        every: int = 1,
        hyper: dict[str, Any] | None = None,
        online: OnlineSelection | None = None,
        strategy: str = "auto",
        kind: type[RecordingCLIP] = RecordingCLIP,
        max_skipped: int = MAX_SKIPPED,
        **changes: Any,
    ) -> dict[str, Any]:
        module = kind(str(workspace / "tiny.json"), **(hyper or {}))
        data = PoolDataModule(**data_options(workspace, out / name) | {"workers": workers} | changes)
        options = LOG_ALL | ({} if failing is None else {"callbacks": [FailAt(failing)]})
        try:
            where = replace(machine, strategy=strategy)
            how = {"options": options, "online": online, "max_skipped": max_skipped}
            fit(module, data, out / name, where, checkpoint_steps=every, **how)
        except (ClipsiftError, ZeroDivisionError) as error:
            module.record["error"] = [type(error).__name__, str(error)]
        return module.record

    def alone() -> dict[str, Any]:
        data = PoolDataModule(**data_options(workspace, out / "alone"))
        index = PoolIndex.build(Pool(data.pool), data.cache)
        if rank() != 0:
            return {}
        module = RecordingCLIP(str(workspace / "tiny.json"))
        data.use(index, Subset.load(str(data.subset)))
        fit(module, data, out / "alone", machine, alone=True, options=LOG_ALL)
        return module.record

    def broken() -> dict[str, Any]:
        if rank() == 0:
            write_pool(out / "broken_pool", broken=(20, 21, 22))
        torch.distributed.barrier()
        changes = {"pool": str(out / "broken_pool"), "cache": str(out / "broken_cache")}
        return train("broken", max_loss=0.02, **changes)

    def diverging(name: str, strategy: str) -> dict[str, Any]:
        """At steps 3, 5 and 6 rank 1 alone has an infinity: in its gradient of a weight, or in its shard of one."""

        class Diverging(Faulty):
            faults, spoilt = ((3, 5, 6) if rank() else ()), float("inf")

            def on_after_backward(self) -> None:
                if strategy == "fsdp":
                    weight = self.clip.get_parameter("visual.conv1.weight")
                    shard = weight.grad.to_local()  # type: ignore[union-attr]
                    shard.copy_(self._spoil(shard))

        return train(name, kind=Diverging, max_skipped=2, strategy=strategy)

    def gone() -> dict[str, Any]:
        """A shard vanishes after the index was built."""
        if rank() == 0:
            write_pool(out / "gone_pool")
        torch.distributed.barrier()
        changes = {"pool": str(out / "gone_pool"), "cache": str(out / "gone_cache")}
        train("gone_before", samples_seen=8, **changes)
        data = PoolDataModule(**data_options(workspace, out / "gone") | changes)
        data.setup("fit")
        torch.distributed.barrier()
        if rank() == 0:
            (out / "gone_pool" / "00000001.tar").unlink()
        torch.distributed.barrier()
        module = RecordingCLIP(str(workspace / "tiny.json"))
        try:
            fit(module, data, out / "gone", machine)
        except ClipsiftError as error:
            module.record["error"] = [type(error).__name__, str(error)]
        return module.record

    def online() -> dict[str, Any]:
        """27 samples per step, 13 and 14 of them on each rank; the test has written the teacher's weights."""
        steps = [{"score": "s_cliploss", "temperature": 0.07, "keep": 0.3}]
        return train("online", online=make_online(workspace, out / "teacher.pt", steps))

    if golden == Path("long"):
        train("long", workers=1, every=10**6, samples_seen=8 * 3000)
        return
    jobs: dict[str, Callable[[], dict[str, Any]]] = {
        "whole": lambda: train("whole"),
        "first_half": lambda: train("first_half", failing=4),  # the test goes on with one process
        "second_half": lambda: train("second_half", workers=1),  # the test has made the first with one process
        "indivisible": lambda: train("indivisible", global_batch=9),
        "siglip": lambda: train("siglip", hyper={"loss": "siglip", "ema": 0.8}),
        "online": online,
        "sharded": lambda: train("sharded", strategy="fsdp", hyper={"accumulate": 2}),
        "sharded_first": lambda: train("sharded_half", strategy="fsdp", failing=4, hyper={"accumulate": 2}),
        "sharded_second": lambda: train("sharded_half", strategy="fsdp", hyper={"accumulate": 2}),
        "sharded_compiled": lambda: train(
            "sharded_compiled",
            strategy="fsdp",
            hyper={"compile": True, "accumulate": 2, "grad_checkpointing": "selective"},
        ),
        "sharded_ema": lambda: train("sharded_ema", strategy="fsdp", hyper={"ema": 0.9}),
        "alone": alone,
        "broken": broken,
        "gone": gone,
        "diverging": lambda: diverging("diverging", "auto"),
        "sharded_diverging": lambda: diverging("sharded_diverging", "fsdp"),
    }
    if golden is not None:
        for pieces in (1, 4):
            jobs[f"golden{pieces}"] = lambda pieces=pieces: _golden(golden, machine, pieces, out)  # type: ignore[misc]
    for name, job in jobs.items():
        (out / f"{name}.{rank()}.json").write_text(json.dumps(job()))


def _golden(golden: Path, machine: Machine, pieces: int, out: Path) -> dict[str, Any]:
    record, weights = train_golden(golden, machine, pieces)
    if rank() == 0:
        torch.save(weights, out / f"golden{pieces}.pt")
    return record


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
