"""How time and memory grow with the pool: ``python -m benchmarks.scale --part NAME [--rows N N N] [--processes N]``.

Every part runs in processes of its own, on data made up for it, at three sizes at least, from which the exponents
follow. A part is a :class:`benchmarks.scale.part.Part` in the ``PARTS`` of a module here. Numbers: ../README.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.measure import describe_machine
from benchmarks.scale import choosing, engines, sets
from benchmarks.scale.part import Part, exponent, measure

PARTS: dict[str, Part] = {**choosing.PARTS, **sets.PARTS, **engines.PARTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=list(PARTS), action="append", help="may be repeated; default all")
    parser.add_argument("--rows", type=int, nargs="+", help="sizes, instead of the part's own")
    parser.add_argument("--processes", type=int, help="of the group, instead of the part's own number")
    parser.add_argument("--folder", type=Path, help="for the data; default the system's")
    options = parser.parse_args()
    print(describe_machine())
    for name in options.part or PARTS:
        part = PARTS[name]
        processes = options.processes or part.processes
        print(f"== {name}, {processes} processes of one thread", flush=True)
        found = []
        for rows in options.rows or part.rows:
            found.append(measure(part, rows, processes, options.folder))
            print(found[-1], flush=True)
        if len(found) > 2:
            sizes = [one.rows for one in found]
            print(
                f"exponent of CPU time {exponent(sizes, [one.cpu for one in found]):.2f}, "
                f"of memory {exponent(sizes, [one.anonymous for one in found]):.2f}"
            )


if __name__ == "__main__":
    main()
