"""Errors for invalid input."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

# Set to 1, this environment variable makes the tools print the traceback of every error.
TRACEBACK = 'MMPELK_TRACEBACK'
# How Python begins the message when a constructor is called with wrong arguments.
WRONG_ARGUMENTS = re.compile(r'.*__init__\(\) (got|missing|takes) ')


class InputError(ValueError):
    """The user's input cannot be used. The message is one line: what is wrong, what is expected, and how to fix it."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def build_errors() -> Iterator[None]:
    """Turn errors that a wrong config causes while objects are built from it into an InputError.

    These are unknown types, arguments that a constructor does not take, keys that the config lacks, and the ValueErrors and
    AssertionErrors with which constructors refuse a value. Errors inside the code of a model pass through unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, AssertionError, TypeError, KeyError, AttributeError) as error:
        if not isinstance(error, (ValueError, AssertionError)) and not _is_from_config(error):
            raise
        raise InputError(f'the config cannot be built: {first_line(error)} ({TRACEBACK}=1 shows where)') from error


def _is_from_config(error: BaseException) -> bool:
    """Return whether mmengine's registries or configs raised the error, or a constructor was called with wrong arguments."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts
    if raised_in[-3:-1] in (('mmengine', 'registry'), ('mmengine', 'config')):
        return True
    return isinstance(error, TypeError) and WRONG_ARGUMENTS.match(str(error)) is not None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an InputError, or a path that cannot be written, into one line on stderr and exit code 1.

    Other errors keep their traceback. With the environment variable ``MMPELK_TRACEBACK=1``, all errors do.
    """
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        _exit(str(error) if error.filename is None else f'cannot use {error.filename}: {error.strerror}')
    except InputError as error:
        # An error from a data loader's worker carries the worker's traceback in front of the message.
        message = str(error).strip().splitlines()[-1]
        _exit(message.removeprefix(f'{InputError.__module__}.InputError: '))


def _exit(message: str) -> None:
    if os.environ.get(TRACEBACK) == '1':
        traceback.print_exc()
    print(f'error: {message}', file=sys.stderr)
    sys.exit(1)
