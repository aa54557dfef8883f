"""The one exception a user is meant to see, and other exceptions' words in one line."""


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
