"""The exceptions that the command line shows as one line."""


class UserError(Exception):
    """A mistake in the input: the message says what was found, what is allowed, in which file, and how to mend it.

    The command line prints the message alone and exits with status 2.
    """


class Refused(Exception):
    """The work is done and written, but passes a limit that the user set. The command line exits with status 3."""
