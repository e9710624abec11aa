"""The one exception a user is meant to read."""


class UserError(ValueError):
    """A foreseeable mistake: its text is one line of what, where and what to do.

    Entry points print it as ``error: <text>`` and exit with status 2.
    """
