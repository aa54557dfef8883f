"""One verb, run: what is wrong is one line, and the exit status says whether everything asked for was done."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from contextlib import suppress

from clipsift_common.ends import stop
from clipsift_common.errors import ClipsiftError, expected, say_error
from clipsift_common.quiet import quiet_libraries


def run_verb(verb: str, arguments: list[str]) -> int:
    """Run ``verb``, a name of :data:`clipsift_app.verbs.VERBS`; print what is wrong. Returns the exit status."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_Log()])
    logging.getLogger("clipsift").setLevel(logging.INFO)
    quiet_libraries()
    with stop.listening():
        try:
            return _run(verb, arguments)
        except stop.Stopped as stopped:  # also by a signal that came while something else was being said
            return _end_stopped(stopped, int(str(stopped.code)))


def _run(verb: str, arguments: list[str]) -> int:
    try:
        importlib.import_module(f"clipsift_app.verbs.{verb}").run(arguments)
        sys.stdout.flush()
    except stop.Stopped:
        raise
    except SystemExit as error:  # --help
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception as error:
        if told := stop.status():  # the others have gone, or a child of ours, for the same reason
            raise stop.Stopped(told) from error
        if line := str(error) if isinstance(error, ClipsiftError) else expected(error):
            say_error(line, _rank())
        else:
            with suppress(OSError):  # who cannot say it must end all the same
                traceback.print_exc()
        return _end_all(1)
    return 0


def _end_stopped(stopped: stop.Stopped, status: int) -> int:
    stop.ignore_further()
    if not _rank():
        with suppress(OSError):
            print(f"clipsift: {stopped}", file=sys.stderr)
    from clipsift_common.distributed import world_size  # here: a verb that needs no torch starts at once

    if world_size() > 1:
        stop.part()
    return _end_all(status)


class _Log(logging.StreamHandler):
    """A log that cannot be written ends the program, as any file does that cannot."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            raise  # noqa: PLE0704 - called where the error is handled
        super().handleError(record)


def _rank() -> int:
    from clipsift_common.distributed import rank  # here: a verb that needs no torch starts at once

    return rank()


def _end_all(status: int) -> int:
    """Leave at once when other ranks may be waiting in a collective; the launcher ends them when it sees us gone."""
    from clipsift_common.distributed import world_size  # here: as above

    if world_size() > 1:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(status)
    return status
