"""Checkpoints: read safely, checked against the model, written so that a kill does no harm."""

from .loading import check_fit, check_prefix, fit_kernels, model_weights, read_checkpoint
from .safe_types import allow_mmengine_types
from .saving import AtomicCheckpointHook, write_checkpoint

__all__ = [
    'AtomicCheckpointHook',
    'allow_mmengine_types',
    'check_fit',
    'check_prefix',
    'fit_kernels',
    'model_weights',
    'read_checkpoint',
    'write_checkpoint',
]
