"""Use trained models without the training framework: folded checkpoints, torch.export programs, and ONNX files."""

from .exporting import Exportable, check_onnx, export, metadata, to_onnx
from .folding import fold

__all__ = ['Exportable', 'check_onnx', 'export', 'fold', 'metadata', 'to_onnx']
