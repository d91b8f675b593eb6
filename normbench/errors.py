"""What can go wrong that is not a mistake of this program."""


def first_line(error: BaseException) -> str:
    """What kind of error it is, and the first line of what it says."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class UsageError(ValueError):
    """Something the person at the keyboard can mend.

    One line: which key, what was received, what is allowed or what to do. The command line
    prints it without a traceback and leaves with exit code 2.
    """


class UnfinishedError(Exception):
    """A training failed, without which the work cannot go on."""


class UnreadableError(ValueError):
    """A file that does not say what it should; the message says why, in a few words."""
