"""The embedded data set."""

from .digit_scenes import CLASSES, DIGIT_CLASSES, PALETTE, make_digit_scenes

__all__ = ['CLASSES', 'DIGIT_CLASSES', 'PALETTE', 'make_digit_scenes']
