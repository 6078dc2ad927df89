"""Datasets made from scikit-learn's digits or drawn at random, and checks of the user's own data."""

from .check_seg_map import CheckSegMap
from .digit_scenes import CLASSES, DIGIT_CLASSES, PALETTE, make_digit_scenes
from .digits import make_digits
from .keyed_rows import COLOR_PALETTE, COLORS, make_keyed_rows

__all__ = [
    'CLASSES',
    'COLORS',
    'COLOR_PALETTE',
    'DIGIT_CLASSES',
    'PALETTE',
    'CheckSegMap',
    'make_digit_scenes',
    'make_digits',
    'make_keyed_rows',
]
