"""One verb, run: what is wrong is one line, and the exit status says whether everything asked for was done."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback

from clipsift_common.errors import ClipsiftError, first_line
from clipsift_common.quiet import quiet_libraries

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = "can't allocate memory"  # torch's, of main memory
_PEER_GONE = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")  # gloo's and NCCL's


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
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if line := _expected(error):
            print(f"clipsift: error: {_on_rank()}{line}", file=sys.stderr)
        else:
            traceback.print_exc()
        return _end_all(1)
    return 0


def _expected(error: Exception) -> str | None:
    """One line for what a machine does to a program, None for a bug of ours."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or 'a file'}: cannot be written ({error.strerror}); the same command resumes"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY in text:
        return f"out of memory ({first_line(error)}); clipsift doctor says what fits"
    if isinstance(error, RuntimeError) and any(words in text for words in _PEER_GONE):
        return "ended because another rank did"
    return None


def _on_rank() -> str:
    from clipsift_common.distributed import rank  # here: a verb that needs no torch starts at once

    return f"rank {rank()}: " if rank() > 0 else ""


def _end_all(status: int) -> int:
    """Leave at once when other ranks may be waiting in a collective; the launcher ends them when it sees us gone."""
    from clipsift_common.distributed import world_size  # here: as above

    if world_size() > 1:
        sys.stderr.flush()
        os._exit(status)
    return status
