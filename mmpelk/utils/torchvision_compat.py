"""A shim for a torchvision whose compiled operators do not match torch."""

from __future__ import annotations

from importlib.util import find_spec

import torch

# A declaration lasts as long as its library object.
_declared: list[torch.library.Library] = []


def declare_missing_operators() -> None:
    """Make ``import torchvision`` work with a CPU-only torch if mmpretrain needs it. Do nothing if it works already.

    mmpretrain needs torchvision's transforms, and mmseg and mmdet import mmpretrain if it is installed. The package index has
    torchvision built for CUDA. With a CPU-only torch, its operators do not load, and its import fails on the two operators that
    have no declaration in Python. With these declared, everything except the operators themselves works.
    """
    if find_spec('torchvision') is None or find_spec('mmpretrain') is None:
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
