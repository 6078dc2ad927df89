"""Read checkpoints safely, write them atomically, convert foreign names, and check that weights fit a model."""

from mmpelk.utils.files import write_atomically

from .fit import check_fit, check_prefix
from .hook import AtomicCheckpointHook
from .reading import model_weights, read_checkpoint
from .safe_io import install_safe_io
from .safe_types import allow_mmengine_types
from .writing import write_checkpoint

__all__ = [
    'AtomicCheckpointHook',
    'allow_mmengine_types',
    'check_fit',
    'check_prefix',
    'install_safe_io',
    'model_weights',
    'read_checkpoint',
    'write_atomically',
    'write_checkpoint',
]
