"""Checkpoints: read safely, checked against the model."""

from .loading import check_fit, model_weights, read_checkpoint
from .safe_types import allow_mmengine_types

__all__ = ['allow_mmengine_types', 'check_fit', 'model_weights', 'read_checkpoint']
