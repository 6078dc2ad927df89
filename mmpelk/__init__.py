"""PeLK for OpenMMLab. With mmengine and mmcv installed, importing mmpelk registers its parts; without them, ``mmpelk.ops`` works."""
from importlib.util import find_spec

__version__ = '0.1.0'

if find_spec('mmengine') and find_spec('mmcv'):
    from .checkpoints import allow_mmengine_types
    from .datasets import digit_scenes_seg, loading  # noqa: F401  (registers)
    from .models import PeLK

    allow_mmengine_types()
    __all__ = ['PeLK']
else:
    __all__ = []
