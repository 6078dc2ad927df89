"""Errors for wrong input."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class InputError(ValueError):
    """What the user gave cannot be used. The message is one line: the bad value, what was expected and how to mend it."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name if it has none."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def build_errors(*more: type[Exception]) -> Iterator[None]:
    """Turn what mmengine's registries raise for a wrong config, and ``more``, into an InputError."""
    try:
        yield
    except (ValueError, TypeError, KeyError, *more) as error:
        raise InputError(f'the config cannot be built: {first_line(error)}') from error


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an InputError, or a path that cannot be written, into one line on stderr and exit code 1. Errors of any other kind keep their
    traceback."""
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        print(f'error: cannot use {error.filename}: {error.strerror}', file=sys.stderr)
        sys.exit(1)
    except InputError as error:
        # An error from a data loader's worker carries the worker's traceback in front of the message.
        message = str(error).strip().splitlines()[-1]
        print(f'error: {message.removeprefix("mmpelk.errors.InputError: ")}', file=sys.stderr)
        sys.exit(1)
