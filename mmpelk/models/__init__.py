"""The PeLK backbone for mmseg, mmdet, and mmpretrain."""

from .pelk import PeLK

__all__ = ['PeLK']
