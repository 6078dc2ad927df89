"""Measure how resizing trained kernels changes the outputs of a model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import track_iter_progress
from torch import nn

from mmpelk.apis import load_model
from mmpelk.engine.preflight import check_data
from mmpelk.models import PeLK
from mmpelk.ops import PeripheralConv2d
from mmpelk.utils.errors import InputError

# The size of the trained center that a kernel with a random periphery keeps.
CENTER_SIZE = 5
TRAINED = 'as trained'


class Effect(NamedTuple):
    """The effect of changing a model on its outputs.

    Attributes:
        change: Norm of the change of the logits, divided by the norm of the trained model's logits.
        top1: Fraction of images that are classified correctly.
    """

    change: float
    top1: float


def resized_variants(model: nn.Module, kernel_sizes: Sequence[int], center_size: int) -> dict[str, nn.Module]:
    """Resize copies of a classifier in several ways.

    Args:
        model: A classifier with a PeLK whose kernels can be resized.
        kernel_sizes: The new kernel size of each stage, at least the old one.
        center_size: Center size of the new default grids.

    Returns:
        The model under the name ``TRAINED``, and the changed copies by name. In the copy 'random periphery', the kernels have their old
        size, and the weights outside the center are initialized again at random.

    Raises:
        InputError: If a size is invalid, or the kernels cannot be resized.
    """
    grids = model.backbone.grids
    trained = dict(sharing_grids=[grid.half for grid in grids])
    default = dict(kernel_sizes=kernel_sizes, center_size=center_size)
    modes = ('extend', 'stretch')
    try:
        outward = dict(sharing_grids=[grid.extended(k).half for grid, k in zip(grids, kernel_sizes, strict=True)])
        return {
            TRAINED: model,
            'extended outward': _resized(model, [outward]),
            **{f'{mode}: there': _resized(model, [dict(default, mode=mode)]) for mode in modes},
            **{
                f'{mode}: there and back': _resized(model, [dict(default, mode=mode), dict(trained, mode=mode)]) for mode in modes
            },
            'random periphery': _with_random_periphery(model),
        }
    except ValueError as error:
        raise InputError(f'the kernels cannot be resized to {list(kernel_sizes)}: {error}') from error


def _resized(model: nn.Module, steps: Sequence[dict]) -> nn.Module:
    """Return a copy whose backbone has been resized in these steps."""
    model = copy.deepcopy(model)
    for step in steps:
        model.backbone.resize_kernels(**step)
    return model


def _with_random_periphery(model: nn.Module) -> nn.Module:
    """Return a copy whose kernels are initialized again at random outside their center."""
    model = copy.deepcopy(model)
    for large in model.backbone.modules():
        if isinstance(large, PeripheralConv2d):
            trained = large.weight.detach().clone()
            large.reset_parameters()
            margin = (large.grid.weight_size - CENTER_SIZE) // 2
            inner = (..., slice(margin, margin + CENTER_SIZE), slice(margin, margin + CENTER_SIZE))
            with torch.no_grad():
                large.weight[inner] = trained[inner]
    return model


@torch.no_grad()
def measure_effects(variants: Mapping[str, nn.Module], batches: Iterable[dict]) -> tuple[int, dict[str, Effect]]:
    """Compare the logits and the accuracy of a classifier's variants, and show the progress.

    Args:
        variants: Classifiers in eval mode by name, as in :func:`resized_variants`.
        batches: Batches of an mmpretrain data loader.

    Returns:
        The number of images, and the effects by name.
    """
    outputs, labels = {name: [] for name in variants}, []
    for batch in track_iter_progress(list(batches)):
        batch = variants[TRAINED].data_preprocessor(batch)
        labels += [int(sample.gt_label) for sample in batch['data_samples']]
        for name, variant in variants.items():
            outputs[name].append(variant(batch['inputs'], mode='tensor').cpu())
    logits = {name: torch.cat(parts) for name, parts in outputs.items()}
    expected = logits[TRAINED]
    effects = {}
    for name, values in logits.items():
        change = (values - expected).norm() / expected.norm()
        top1 = (values.argmax(1) == torch.tensor(labels)).float().mean()
        effects[name] = Effect(change.item(), top1.item())
    return len(labels), effects


def effects_as_text(effects: Mapping[str, Effect]) -> str:
    """Format effects as a table, with top-1 in percent."""
    lines = [f'{"":24} {"logits change by":>20} {"top-1":>7}']
    lines += [f'{name:24} {effect.change:20.2e} {100 * effect.top1:7.2f}' for name, effect in effects.items()]
    return '\n'.join(lines)


def measure_checkpoint(cfg: Config, checkpoint: str, kernel_sizes: Sequence[int], center_size: int) -> str:
    """Measure the effects of resizing on the test data of a classifier's config.

    Args:
        cfg: The config of a classifier of mmpretrain with a PeLK.
        checkpoint: The checkpoint file.
        kernel_sizes, center_size: See :func:`resized_variants`.

    Returns:
        The table of effects.

    Raises:
        InputError: If the config has another model or no test data, or the kernels cannot be resized.
    """
    model = load_model(cfg, checkpoint)
    if not isinstance(model.backbone, PeLK) or cfg.get('default_scope') != 'mmpretrain':
        raise InputError(f'config {cfg.filename} does not describe a classifier of mmpretrain with a PeLK')
    if not cfg.get('test_dataloader'):
        raise InputError(f'config {cfg.filename} has no test_dataloader')
    check_data(cfg, ('test',))
    torch.manual_seed(0)
    variants = resized_variants(model, kernel_sizes, center_size)
    loader = Runner.build_dataloader(dict(cfg.test_dataloader, num_workers=0, persistent_workers=False))
    count, effects = measure_effects(variants, loader)
    title = f'{count} images, kernels {[grid.kernel_size for grid in model.backbone.grids]} to {list(kernel_sizes)}'
    return f'{title}\n{effects_as_text(effects)}'
