"""The one exception a user is meant to see, and other exceptions' words in one line."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = "can't allocate memory"  # torch's, of main memory
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


def expected(error: BaseException) -> str | None:
    """One line for what a machine does to a program, None for a bug of ours."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or 'a file'}: cannot be written ({error.strerror}); the same command resumes"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or _NO_MEMORY in text:
        return f"out of memory ({first_line(error)}); clipsift doctor says what fits"
    if isinstance(error, RuntimeError) and any(words in text for words in _PEER_GONE):
        return "ended because another rank did"
    return None
