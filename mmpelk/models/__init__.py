"""The PeLK backbone for mmseg, mmdet, and mmpretrain, and kernels that grow inside other models.

Growing kernels needs only torch. The backbones are available only if mmengine and mmcv are installed.
"""

from importlib.util import find_spec

from .growing import GrownConv2d, Growth, grow_kernels, switch_to_deploy
from .shared_steps import scale_shared_steps

__all__ = ['GrownConv2d', 'Growth', 'grow_kernels', 'scale_shared_steps', 'switch_to_deploy']

if find_spec('mmengine') and find_spec('mmcv'):
    from .grown_backbone import grown_backbone
    from .pelk import PeLK
    from .shared_steps_hook import SharedStepsHook

    __all__ += ['PeLK', 'SharedStepsHook', 'grown_backbone']
