"""Is it true on a GPU? Eight parts, each printed as it ends: ``python -m benchmarks.gpu [--part N] [--out FOLDER]``.

Needs one GPU, no network and nothing but the program's dependencies; makes its own pictures. A part that is done is not
done again. Without a GPU, or with ``--small``, every part runs in a form that a CPU finishes in minutes: that shows
that the program works, and its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.gpu import doctor_memory, encoders, kernel, methods, processes, programs, real_fit, steps
from benchmarks.gpu.rows import FAILS, Results, Row
from benchmarks.measure import describe_machine
from clipsift_common.errors import first_line
from clipsift_common.quiet import quiet_libraries

Part = Callable[[bool, Path], Iterator[Row]]
PARTS: dict[str, tuple[str, Part]] = {
    "1": ("the fused kernel", kernel.run),
    "2": ("training steps against open_clip's loop", steps.run),
    "3": ("a real fit", real_fit.run),
    "4": ("the demo, signals, options of training", programs.run),
    "5": ("embedding and evaluation", encoders.run),
    "6": ("collectives, groups, devices", processes.run),
    "7": ("doctor's memory", doctor_memory.run),
    "8": ("methods against the CPU", methods.run),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=list(PARTS), help="only this one")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="results and scratch")
    parser.add_argument("--small", action="store_true", default=not torch.cuda.is_available())
    options = parser.parse_args()
    quiet_libraries()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and not options.small else "CPU, small"
    results = Results(options.out / "results.json", f"{device}; {describe_machine().rsplit(', load', 1)[0]}")
    for number in [options.part] if options.part else list(PARTS):
        if number not in results.parts:
            title, part = PARTS[number]
            print(f"== {number}: {title}", flush=True)
            results.keep(number, _rows(part, options.small, options.out / f"part{number}"))
    (options.out / "results.md").write_text(results.markdown(), encoding="utf-8")
    print(f"{options.out / 'results.md'}: {len(results.failures)} rows fail")
    return 1 if results.failures else 0


def _rows(part: Part, small: bool, folder: Path) -> list[Row]:
    """A part's rows, printed one by one; what ends it early is a row too."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, start = list[Row](), time.perf_counter()
    try:
        for row in part(small, folder):
            rows.append(row)
            print(f"   {row.verdict:8} {row.name}: {row.value} {row.bound}", flush=True)
    except Exception as error:  # the other parts still run
        traceback.print_exc()
        rows.append(Row("ran to its end", f"{type(error).__name__}: {first_line(error)}", "yes", FAILS))
    rows.append(Row("seconds", f"{time.perf_counter() - start:.0f}", "", "measured"))
    return rows


if __name__ == "__main__":
    sys.exit(main())
