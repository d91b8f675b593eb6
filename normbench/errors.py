"""The one kind of error that is a person's to mend."""


class UsageError(ValueError):
    """Something the person at the keyboard can mend.

    One line: which key, what was received, what is allowed or what to do. The command line
    prints it without a traceback and leaves with exit code 2.
    """
