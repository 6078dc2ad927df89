"""The version of mmpelk."""

__version__ = '0.1.0'
