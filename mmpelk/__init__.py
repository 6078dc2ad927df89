"""PeLK for OpenMMLab.

Importing mmpelk registers its parts with mmengine, where mmengine and mmcv are installed. ``mmpelk.ops`` needs torch alone.
"""

from importlib.util import find_spec

__version__ = '0.1.0'

if find_spec('mmengine') and find_spec('mmcv'):
    from .checkpoints import allow_mmengine_types  # registers mmengine's loaders anew
    from .datasets import check_seg_map, digit_scenes_seg  # noqa: F401  (registers)
    from .models import PeLK
    from .sparsity import hooks  # noqa: F401  (registers)
    from .torchvision_operators import declare_missing_operators

    declare_missing_operators()
    allow_mmengine_types()
    __all__ = ['PeLK']
else:
    __all__ = []
