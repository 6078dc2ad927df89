"""Use trained models without the training framework: folded checkpoints, torch.export programs, and ONNX files."""

from .export_checkpoint import export_checkpoint
from .exporting import Exportable, export
from .folding import fold, fold_checkpoint
from .onnx_files import check_onnx, metadata, to_onnx

__all__ = ['Exportable', 'check_onnx', 'export', 'export_checkpoint', 'fold', 'fold_checkpoint', 'metadata', 'to_onnx']
