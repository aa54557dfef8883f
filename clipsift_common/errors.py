"""The one exception a user is meant to see, other exceptions' words in one line, and how they are said."""

import errno
import os
import sys
from contextlib import suppress

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
# torch's, of main memory; the driver's and cuBLAS's, who allocate beside torch
_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_PEER_GONE = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited")  # gloo's and NCCL's


class ClipsiftError(Exception):
    """A problem the user can mend.

    The message is one line that names the file, the sample or the setting, and says what to do. The program
    prints it without a traceback and exits with status 1. Anything else that escapes is a bug of ours.
    """

    def __init__(self, message: str) -> None:
        if message.startswith("Caught ClipsiftError in DataLoader worker"):  # torch puts the worker's traceback before
            message = message.strip().splitlines()[-1].partition("ClipsiftError: ")[2]
        super().__init__(message)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that says anything; the exception's name where none does."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether main memory, or a GPU's, was not enough."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def expected(error: BaseException) -> str | None:
    """One line for what a machine does to a program, None for a bug of ours."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or _outputs()}: cannot be written ({error.strerror}); the same command resumes"
    if is_out_of_memory(error):
        return f"out of memory ({first_line(error)}); clipsift doctor says what fits"
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _PEER_GONE):
        return "ended because another rank did"
    return None


def _outputs() -> str:
    """Where stdout and stderr go, for the error that names no file: only these are written without a name."""
    names = set()
    for number in (1, 2):
        with suppress(OSError):
            names.add(os.readlink(f"/proc/self/fd/{number}"))
    return " or ".join(sorted(names)) or "the output"


def say_error(line: str, rank: int = 0) -> None:
    """Print the program's last words: on stderr, or on stdout where stderr cannot be written. Never raises."""
    for stream in (sys.stderr, sys.stdout):
        with suppress(OSError, ValueError):
            print(f"clipsift: error: {f'rank {rank}: ' if rank else ''}{line}", file=stream, flush=True)
            return


def is_out_of_files(error: Exception) -> bool:
    """Whether too many files are open, by an error of the system's or one of ours that came of it."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return getattr(cause, "errno", None) in _NO_MORE_FILES
