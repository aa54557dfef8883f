"""One verb, run: what is wrong is one line, and the exit status says whether everything asked for was done."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback

from clipsift_common.errors import ClipsiftError, expected
from clipsift_common.quiet import quiet_libraries


def run_verb(verb: str, arguments: list[str]) -> int:
    """Run ``verb``, a name of :data:`clipsift_app.verbs.VERBS`; print what is wrong. Returns the exit status."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("clipsift").setLevel(logging.INFO)
    quiet_libraries()
    try:
        importlib.import_module(f"clipsift_app.verbs.{verb}").run(arguments)
    except ClipsiftError as error:
        print(f"clipsift: error: {_on_rank()}{error}", file=sys.stderr)
        return _end_all(1)
    except KeyboardInterrupt:
        return _end_all(130)
    except SystemExit as error:  # --help; a training that was told to stop and has saved
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        return _end_all(1) if status == 1 else status  # Lightning makes that of an interrupt
    except Exception as error:
        if line := expected(error):
            print(f"clipsift: error: {_on_rank()}{line}", file=sys.stderr)
        else:
            traceback.print_exc()
        return _end_all(1)
    return 0


def _on_rank() -> str:
    from clipsift_common.distributed import rank  # here: a verb that needs no torch starts at once

    return f"rank {rank()}: " if rank() > 0 else ""


def _end_all(status: int) -> int:
    """Leave at once when other ranks may be waiting in a collective; the launcher ends them when it sees us gone."""
    from clipsift_common.distributed import world_size  # here: as above

    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status
