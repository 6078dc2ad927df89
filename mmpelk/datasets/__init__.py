"""The embedded data sets."""

from .digit_scenes import CLASSES, DIGIT_CLASSES, PALETTE, make_digit_scenes
from .digits import make_digits

__all__ = ['CLASSES', 'DIGIT_CLASSES', 'PALETTE', 'make_digit_scenes', 'make_digits']
