"""Checks of arguments, whose errors name the argument."""

from __future__ import annotations

import math
from numbers import Integral, Real


def is_int(value: object) -> bool:
    """Return whether a value is an integer and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is a finite number and not a bool."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def check_flags(**flags: object) -> None:
    """Raise ValueError unless all values are True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f'{name} must be True or False, got {value!r}')
