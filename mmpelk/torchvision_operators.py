"""torchvision beside a torch that its compiled operators do not fit."""

from __future__ import annotations

from importlib.util import find_spec

import torch

# Declarations last as long as the library object.
_declared: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Make ``import torchvision`` work beside a CPU-only torch.

    mmpretrain needs torchvision's transforms, and mmseg and mmdet import mmpretrain where it is installed. The package index's
    torchvision is built for CUDA: beside a CPU-only torch its operators do not load, and then its import fails on the two
    that have no declaration in Python. With these, all but the operators themselves works.
    """
    if find_spec('torchvision') is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        library = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            library.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        _declared.append(library)
