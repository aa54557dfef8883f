"""What `import clipsift, selection` costs, beside importing the libraries that the names behind it need."""

from __future__ import annotations

import subprocess
import sys

OURS = "import clipsift, selection"
THEIRS = "import torch, lightning, open_clip"
RUNS = 5
# Seconds of CPU time and megabytes of a process that does nothing else.
_MEASURE = "import resource; used = resource.getrusage(resource.RUSAGE_SELF); "
_PRINT = "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"


def cost(code: str) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {_MEASURE}{_PRINT}"], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def main() -> None:
    cost(THEIRS)  # not counted: files come from the disk
    pairs = [(cost(OURS), cost(THEIRS)) for _ in range(RUNS)]
    for name, position in ((OURS, 0), (THEIRS, 1)):
        seconds, megabytes = (sorted(pair[position][kind] for pair in pairs)[RUNS // 2] for kind in (0, 1))
        print(f"{name}: {seconds:.3f} s of CPU time, {megabytes:.0f} MB (median of {RUNS})")
    ratios = sorted(theirs[0] / ours[0] for ours, theirs in pairs)
    print(f"ratio of CPU time: {ratios[RUNS // 2]:.0f}")


if __name__ == "__main__":
    main()
