"""Errors for invalid input."""

from __future__ import annotations

import contextlib
import errno
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType

# File system errors that do not name their file: a full disk, an exceeded quota, a file that is too large, and a read-only disk.
SYSTEM_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FILE_ERRORS = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
# Set to 1, this environment variable makes the tools print the traceback of every error.
TRACEBACK = 'MMPELK_TRACEBACK'
# The packages whose constructors receive the config's values unchanged.
LIBRARIES = frozenset(('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'torch'))
REJECTIONS = (ValueError, AssertionError)
# The parts of OpenMMLab that use the config's values. In mmcv, these are the builders of layers.
USES_CONFIG = tuple(
    f'mmengine.{part}' for part in ('config.', 'dataset.', 'hooks.', 'logging.', 'model.averaged_model', 'registry.', 'runner.')
)
USES_CONFIG += ('mmcv.cnn.bricks.',)
# Python's message when a constructor is called with wrong arguments.
WRONG_ARGUMENTS = re.compile(r'(?P<owner>.+)\.__init__\(\) (got|missing|takes) ')


class InputError(ValueError):
    """The user's input cannot be used. The message is one line: what is wrong, what is expected, and how to fix it."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return (str(text).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def build_errors() -> Iterator[None]:
    """Convert errors that an invalid config causes while objects are built from it to an InputError.

    These are unknown types, unexpected or missing arguments of a constructor, keys that the config lacks, the ValueErrors and
    AssertionErrors with which constructors and the libraries reject a value, and any error inside a constructor of OpenMMLab or torch
    that a registry has called with the config's values. Other errors inside the code of a model pass through unchanged.
    """
    try:
        yield
    except InputError:
        raise
    except (ValueError, AssertionError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, OSError) as error:
        if _is_mmpretrain_beside_transformers(error):
            raise InputError(
                f'mmpretrain cannot be imported next to transformers {version("transformers")}, because its multimodal models need '
                f'functions that transformers 5 has removed ({first_line(error)}); uninstall transformers, or use it in an environment '
                'without mmpretrain'
            ) from error
        is_rejection = isinstance(error, REJECTIONS) and (is_from_libraries(error) or _is_from_constructor(error))
        if not is_rejection and not _is_from_config(error):
            raise
        raise InputError(f'the config cannot be built: {first_line(error)} ({TRACEBACK}=1 shows where)') from error


def is_from_libraries(error: BaseException) -> bool:
    """Return whether code of mmpelk, OpenMMLab, or torch raised an error, rather than the user's own code."""
    return _innermost_frame(error).f_globals.get('__name__', '').split('.')[0] in LIBRARIES | {'mmpelk'}


def _is_from_constructor(error: BaseException) -> bool:
    return _innermost_frame(error).f_code.co_name == '__init__'


def _innermost_frame(error: BaseException) -> FrameType:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return frame


def _is_mmpretrain_beside_transformers(error: BaseException) -> bool:
    """Return whether mmpretrain failed to define its multimodal models, which derive from classes of transformers."""
    in_multimodal = 'mmpretrain/models/multimodal' in Path(_innermost_frame(error).f_code.co_filename).as_posix()
    return in_multimodal and isinstance(error, TypeError) and 'transformers' in sys.modules


def _is_from_config(error: BaseException) -> bool:
    """Return whether the config's values caused an error.

    Such an error comes from the parts of OpenMMLab that use these values (``USES_CONFIG``), from code of the libraries that a registry
    has called with them, or from a constructor that does not accept the config's arguments. The arguments come from the config if a
    registry calls the constructor, or a subclass passes them on to it. Anywhere else, wrong arguments are a bug in the calling code.
    """
    modules = [frame.f_globals.get('__name__', '') for frame, _ in traceback.walk_tb(error.__traceback__)]
    while len(modules) > 1 and modules[-1].split('.')[0] == 'logging':
        modules.pop()
    if modules[-1].startswith(USES_CONFIG):
        return True
    built = [index for index, module in enumerate(modules) if module.startswith('mmengine.registry.')]
    if built and all(module.split('.')[0] in LIBRARIES for module in modules[built[-1] :]):
        return True
    frame = _innermost_frame(error)
    match = WRONG_ARGUMENTS.match(str(error))
    if match is None or not isinstance(error, TypeError):
        return False
    # mmengine's ManagerMixin builds visualizers in a class method.
    caller = frame.f_locals.get('self', frame.f_locals.get('cls'))
    bases = inspect.getmro(caller if isinstance(caller, type) else type(caller))
    return match['owner'] in [base.__qualname__ for base in bases]


@contextlib.contextmanager
def argument_errors() -> Iterator[None]:
    """Turn the errors with which a function rejects its arguments into an InputError, because they come from the user."""
    try:
        yield
    except (ValueError, FileExistsError) as error:
        raise InputError(str(error)) from error


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an InputError, or the error of a file that cannot be used, as one line on stderr, and exit with code 1.

    Other errors keep their traceback. With the environment variable ``MMPELK_TRACEBACK=1``, all errors do.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno not in SYSTEM_ERRORS and not isinstance(error, FILE_ERRORS):
            raise
        _exit(first_line(error) if error.filename is None else f'cannot use {error.filename}: {error.strerror}')
    except InputError as error:
        # An error from a data loader's worker carries the worker's traceback in front of the message.
        message = str(error).strip().splitlines()[-1]
        _exit(message.removeprefix(f'{InputError.__module__}.InputError: '))


def _exit(message: str) -> None:
    if os.environ.get(TRACEBACK) == '1':
        traceback.print_exc()
    print(f'error: {message}', file=sys.stderr)
    sys.exit(1)
