"""The one exception a user is meant to see."""


class ClipsiftError(Exception):
    """A problem the user can mend.

    The message is one line that names the file, the sample or the setting, and says what to do. The program
    prints it without a traceback and exits with status 1. Anything else that escapes is a bug of ours.
    """
