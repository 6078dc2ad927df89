"""The error for wrong input."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: the bad value, what was expected and how to mend it."""
