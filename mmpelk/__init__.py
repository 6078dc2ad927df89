"""PeLK for OpenMMLab.

If mmengine and mmcv are installed, importing mmpelk registers its classes with mmengine and allows ``torch.load(weights_only=True)`` to
read mmengine's own types, which are needed to resume training. It changes nothing else. ``mmpelk.ops`` needs only torch.
"""

from importlib.util import find_spec

from .version import __version__

__all__ = ['__version__']

if find_spec('mmengine') and find_spec('mmcv'):
    from .checkpoints import AtomicCheckpointHook, allow_mmengine_types
    from .datasets import CheckSegMap
    from .models import PeLK
    from .sparsity import DynamicSparsityHook, FixedSparsityHook

    allow_mmengine_types()
    __all__ += ['AtomicCheckpointHook', 'CheckSegMap', 'DynamicSparsityHook', 'FixedSparsityHook', 'PeLK']
