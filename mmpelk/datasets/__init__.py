"""Datasets made from scikit-learn's digits, and checks of the user's own data."""

from .check_seg_map import CheckSegMap
from .digit_scenes import CLASSES, DIGIT_CLASSES, PALETTE, make_digit_scenes
from .digits import make_digits

__all__ = ['CLASSES', 'DIGIT_CLASSES', 'PALETTE', 'CheckSegMap', 'make_digit_scenes', 'make_digits']
