"""Measure how resizing trained kernels changes the outputs of a model."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from mmengine.utils import track_iter_progress
from torch import Tensor, nn

from mmpelk.models import PeLK
from mmpelk.models.state_dict import stored_grid
from mmpelk.ops import PeripheralConv2d
from mmpelk.ops.resizing import resizing_error
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


class FeatureChange(NamedTuple):
    """How the features of a backbone change when its kernels are resized on loading.

    Attributes:
        sizes: The old and the new kernel sizes, without repetition.
        exact: Whether all resized kernels are the same functions of the offset as before.
        change: Norm of the change of the last output on random images, divided by the norm before.
    """

    sizes: tuple[tuple[int, int], ...]
    exact: bool
    change: float

    def __str__(self) -> str:
        sizes = ', '.join(f'{old}x{old} to {new}x{new}' for old, new in self.sizes)
        verdict = 'this is exact' if self.exact else f'this is NOT exact; a center of {self.sizes[0][0]} would be'
        return f'kernels are resized on loading ({sizes}): {verdict}; the last features change by {self.change:.2g} of their norm'


@torch.no_grad()
def measure_feature_change(backbone: nn.Module, weights: Mapping[str, Tensor], size: int = 224) -> FeatureChange | None:
    """Compare a backbone that resizes the kernels of a checkpoint with one that keeps their original size.

    Args:
        backbone: A PeLK, or a backbone with grown kernels.
        weights: Weights that the backbone can load, each kernel with its ``half_grid``.
        size: Height and width of the random images.

    Returns:
        The change, or None if no kernel is resized, or kernels are missing.
    """
    resized, original = copy.deepcopy(backbone), copy.deepcopy(backbone)
    kernels = {}
    for name, module in backbone.named_modules():
        if isinstance(module, PeripheralConv2d):
            if f'{name}.weight' not in weights:
                return None
            old = stored_grid(weights[f'{name}.half_grid'], f'{name}.half_grid')
            kernels[name] = weights[f'{name}.weight'], old, module.grid
    if all(old == new for _, old, new in kernels.values()):
        return None
    if isinstance(backbone, PeLK):
        first = [f'stages.{stage}.0.token_mixer.large' for stage in range(len(backbone.grids))]
        original.resize_kernels(sharing_grids=[kernels[name][1].half for name in first])
    else:
        for name, (weight, old, _) in kernels.items():
            original.get_submodule(name).set_grid(old)
            original.get_submodule(name).weight = nn.Parameter(weight)
    images = torch.randn(1, _image_channels(backbone), size, size, generator=torch.Generator().manual_seed(0))
    outputs = []
    for model in (original, resized):
        model.load_state_dict(weights, strict=False)
        model.eval()
        outputs.append(model(images)[-1])
    change = (outputs[1] - outputs[0]).norm() / outputs[0].norm()
    sizes = dict.fromkeys((old.kernel_size, new.kernel_size) for _, old, new in kernels.values())
    return FeatureChange(tuple(sizes), all(resizing_error(*kernel) == 0 for kernel in kernels.values()), change.item())


def _image_channels(backbone: nn.Module) -> int:
    """Return the number of channels of the images that a backbone takes."""
    return next(module for module in backbone.modules() if isinstance(module, nn.Conv2d)).in_channels
