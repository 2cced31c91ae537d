"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake in the input: the message says what was found, what is allowed, in which file, and how to mend it.

    The command line prints the message alone and exits with status 2.
    """
