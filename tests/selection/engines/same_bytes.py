"""What test_same_bytes.py runs: ``python same_bytes.py FOLDER`` selects by one process, by a group, and by parts.

``FOLDER/group2`` is of two processes; ``FOLDER/parts7`` of seven parts in random order, each a process of its own that
knows of no other; two of them are killed (SIGKILL) on the way and repeated. One import serves all.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from many_ranks import killed, run_ranks

from clipsift_common.engines.base import Part
from helpers.scored_pool import BLOCK_ROWS, selector, write_scored_pool
from selection import selector as selector_module

KILLED = {3: 4, 6: 5}  # part -> files that it puts in their place before


def main(folder: Path) -> None:
    selector_module.BLOCK_ROWS = BLOCK_ROWS
    write_scored_pool(folder)
    for name, world_size in (("whole", 1), ("group2", 2)):
        run_ranks(world_size, folder / name, lambda name=name: selector(folder, name).run())  # type: ignore[misc]
    for number in random.Random(1).sample(range(1, 8), 7):

        def score(number: int = number) -> None:
            selector(folder, "parts7").score_part(Part(number, 7))

        if number in KILLED and not killed(score, KILLED[number]):
            sys.exit(f"part {number} ended before it was killed")
        run_ranks(1, folder / "parts7", score)
    run_ranks(2, folder / "parts7", lambda: selector(folder, "parts7").run())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
