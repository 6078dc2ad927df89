"""Import what the tools import from other packages, in the process from which tests/tool_process.py forks."""

import contextlib

import mmengine.runner  # noqa: F401

from mmpelk.utils.torchvision_compat import declare_missing_operators

declare_missing_operators()

# mmdet needs mmcv's compiled operators.
for name in ('mmseg.apis', 'mmpretrain.apis', 'mmdet.apis'):
    with contextlib.suppress(ImportError, AssertionError):
        __import__(name)
