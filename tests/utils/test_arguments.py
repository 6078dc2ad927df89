"""Which values count as numbers and flags."""

import math
from fractions import Fraction

import numpy as np
import pytest

from mmpelk.utils.arguments import check_flags, is_int, is_number


@pytest.mark.parametrize(
    'value, is_integer, is_finite',
    [
        (3, True, True), (np.int64(3), True, True), (2.0, False, True), (np.float32(0.5), False, True), (Fraction(1, 2), False, True),
        (True, False, False), ('3', False, False), (None, False, False), (1j, False, False),
        (math.nan, False, False), (-math.inf, False, False),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers(value, is_integer, is_finite):
    assert is_int(value) is is_integer and is_number(value) is is_finite


def test_flags():
    check_flags(a=True, b=False)
    with pytest.raises(ValueError, match='^b must be True or False, got 1$'):
        check_flags(a=True, b=1)
