"""Fold the parts that only training needs into plain convolutions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmpelk.apis import load_model
from mmpelk.checkpoints.writing import checkpoint_bytes
from mmpelk.models import PeLK, switch_to_deploy
from mmpelk.models.backbones import large_kernel_backbones
from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_together

# Relative to the largest output.
TOLERANCE = 1e-4


@torch.no_grad()
def fold(model: nn.Module, keep_grid: bool = False, size: int = 128) -> float:
    """Fold every PeLK and every backbone with grown kernels in place, and compare the outputs on random images before and after.

    Args:
        model: A model in eval mode.
        keep_grid: See :meth:`mmpelk.PeLK.switch_to_deploy`. A backbone with grown kernels has nothing else to fold.
        size: Height and width of the random images.

    Returns:
        The largest difference between the outputs before and after, relative to the largest output.

    Raises:
        InputError: If the model has no such backbone, a backbone cannot be folded, or its outputs change by more than 1e-4.
    """
    backbones = [backbone for _, backbone in large_kernel_backbones(model)]
    if not backbones:
        raise InputError(f'{type(model).__name__} has neither a PeLK nor a backbone with grown kernels to fold')
    if keep_grid and not all(isinstance(backbone, PeLK) for backbone in backbones):
        raise InputError(
            'a backbone with grown kernels has nothing to fold except its grids; use the checkpoint without folding it'
        )
    worst = 0.0
    for backbone in backbones:
        weight = next(backbone.parameters())
        channels = next(module for module in backbone.modules() if isinstance(module, nn.Conv2d)).in_channels
        images = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(weight)
        # The reference is computed in float64, so that it adds no rounding errors.
        exact = copy.deepcopy(backbone).double()
        for module in exact.modules():
            if hasattr(module, 'backend'):
                module.backend = 'auto'  # the backend in the config may not support float64
        expected = exact(images.double())
        try:
            if isinstance(backbone, PeLK):
                backbone.switch_to_deploy(keep_grid)
            else:
                switch_to_deploy(backbone)
        except ValueError as error:
            raise InputError(f'the backbone cannot be folded: {error}') from error
        difference = relative_difference(backbone(images), expected)
        if not difference < TOLERANCE:  # also true for NaN
            raise InputError(f'folding changes the outputs by {difference:.1e}, more than {TOLERANCE}')
        worst = max(worst, difference)
    return worst


def fold_checkpoint(cfg: Config, checkpoint: str | Path, out: Path, keep_grid: bool = False) -> str:
    """Fold a checkpoint, and write the result with the config that loads it.

    Args:
        cfg: The config of the checkpoint. It becomes the config of the folded one.
        checkpoint: The checkpoint file.
        out: The checkpoint to write. The config is written beside it, as a .py file.
        keep_grid: See :func:`fold`.

    Returns:
        A line that says what changed.

    Raises:
        InputError: If the model has no backbone to fold, or the checkpoint does not fit it.
    """
    backbone = cfg.model.get('backbone', {})
    if not str(backbone.get('type', '')).endswith(('PeLK', 'GrownBackbone')):
        raise InputError(f'config {cfg.filename} has no PeLK or GrownBackbone at model.backbone')
    if keep_grid and backbone.get('deploy') == 'plain':
        raise InputError(
            f'config {cfg.filename} describes a checkpoint folded without grids; --keep-grid needs the trained checkpoint'
        )
    model = load_model(cfg, checkpoint, 'cpu')
    before = sum(p.numel() for p in model.parameters())
    difference = fold(model, keep_grid)
    after = sum(p.numel() for p in model.parameters())
    backbone.update(deploy='grid' if keep_grid else 'plain', init_cfg=None)
    if inner := backbone.get('backbone'):  # a GrownBackbone's
        inner.update(init_cfg=None, **({'pretrained': False} if 'pretrained' in inner else {}))
    cfg.pop('custom_hooks', None)  # hooks are for training
    folded = dict(meta=dict(dataset_meta=model.dataset_meta), state_dict=model.state_dict())
    config = out.with_suffix('.py')
    write_together({out: checkpoint_bytes(folded), config: cfg.pretty_text.encode()})
    counts = f'{before / 1e6:.2f} M parameters became {after / 1e6:.2f} M'
    return f'{out}: {counts}; features differ by {difference:.1e}; config {config}'


def relative_difference(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> float:
    """Return the largest difference of an output from its reference, relative to the reference's largest value.

    The result is NaN if any difference is NaN.
    """
    pairs = zip(outputs, references, strict=True)
    return torch.stack([(output - reference).abs().max() / reference.abs().max() for output, reference in pairs]).max().item()
