"""Errors for wrong input."""


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: the bad value, what was expected and how to mend it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name if it has none."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text).strip().splitlines() or [type(error).__name__])[0]
