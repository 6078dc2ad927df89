"""Build any OpenMMLab backbone with grown kernels from a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmengine.logging import print_log
from mmengine.model import PretrainedInit, initialize
from mmengine.registry import MODELS
from torch import nn

from mmpelk.utils.errors import build_errors

from .growing import grow_kernels, switch_to_deploy


@MODELS.register_module(name='GrownBackbone')
def grown_backbone(
    backbone: dict,
    kernel_sizes: int | Sequence[int] | Mapping[str, int],
    grid_base: int = 2,
    backend: str = 'auto',
    deploy: str | None = None,
    init_cfg: dict | None = None,
) -> nn.Module:
    """Build a backbone and grow its depthwise kernels (:func:`mmpelk.models.grow_kernels`).

    The result is the inner backbone itself, so its class, its attributes, and its module names do not change. Checkpoints of the inner
    backbone, or of a model that contains it, can be loaded directly: each kernel becomes the center of the grown one.

    Args:
        backbone (dict): Config of the inner backbone, such as ``dict(type='mmpretrain.ConvNeXt', arch='tiny')``.
        kernel_sizes (int | Sequence[int] | dict): The new kernel size: one for all kernels, one for each stage, or a dict of sizes by
            the inner backbone's module names.
        grid_base (int): Growth factor of the grid's cells outside the center. Defaults to 2.
        backend (str): How convolutions are evaluated; see :func:`mmpelk.ops.peripheral_conv2d`. Defaults to 'auto'.
        deploy (str, optional): 'plain' builds plain depthwise convolutions of the new sizes, for checkpoints that tools/deploy.py
            wrote. Defaults to None.
        init_cfg (dict, optional): Replaces the ``init_cfg`` of the inner backbone. Defaults to None, which keeps it.

    Raises:
        ValueError: If the inner backbone cannot be built or has no kernel to grow, or an argument is invalid.
    """
    if deploy not in (None, 'plain'):
        raise ValueError(f"deploy must be None or 'plain', got {deploy!r}")
    if init_cfg is not None:
        backbone = dict(backbone, init_cfg=init_cfg)
    with build_errors():
        model = MODELS.build(backbone)
    _initialize(model)
    growth = grow_kernels(model, kernel_sizes, base=grid_base, backend=backend)
    if deploy == 'plain':
        switch_to_deploy(model)
    else:
        print_log(f'GrownBackbone: {growth}', 'current')
    return model


def _initialize(model: nn.Module) -> None:
    """Initialize a backbone with its ``init_cfg`` before its kernels grow. Checkpoints are loaded later.

    mmengine's initializers select layers by class name, such as Conv2d, and do not find kernels that have grown.
    """
    inits = getattr(model, 'init_cfg', None) or []
    inits = [inits] if isinstance(inits, dict) else inits
    initialize(model, [init for init in inits if init['type'] not in ('Pretrained', PretrainedInit)])
