"""Grow the depthwise kernels of any model without changing what it computes. Needs only torch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpelk.ops import PeripheralConv2d, SharingGrid, resize_weight
from mmpelk.ops.backends import check_backend_name
from mmpelk.ops.resizing import resizing_error
from mmpelk.utils.arguments import is_int

from .state_dict import stored_grid


class GrownConv2d(PeripheralConv2d):
    """A depthwise convolution with an enlarged kernel. Its output is unchanged until the new weights are trained.

    The old kernel is the fine-grained center of a sharing grid, and the weights around it start at zero. The state dict keeps the names
    ``weight`` and ``bias``, and adds ``half_grid``. The state dict of a plain convolution can be loaded too: its kernel becomes the
    center. Kernels on other grids are resized with :func:`mmpelk.ops.resize_weight`, and a warning is logged if that changes them.

    Args:
        conv: The convolution that is replaced.
        grid: A grid whose cells have size 1 where the old kernel lies.
        backend: See :func:`mmpelk.ops.peripheral_conv2d`.
    """

    def __init__(self, conv: nn.Conv2d, grid: SharingGrid, backend: str = 'auto') -> None:
        with torch.device('meta'):  # all tensors are replaced
            super().__init__(conv.in_channels, grid, bias=False, backend=backend)
        self.set_grid(grid)
        self.half_grid = self.half_grid.to(conv.weight.device)
        around = (grid.weight_size - conv.weight.shape[-1]) // 2
        weight = F.pad(conv.weight.detach(), [around] * 4)
        self.weight = nn.Parameter(weight, requires_grad=conv.weight.requires_grad)
        self.bias = conv.bias
        self.train(conv.training)

    def fit_kernel(self, weights: dict[str, Tensor], prefix: str = '') -> tuple[SharingGrid, SharingGrid] | None:
        """Resize this module's kernel in a state dict to this module's grid, in place.

        Args:
            weights: A state dict. A kernel with a different number of channels is left unchanged, so that loading reports it.
            prefix: Prefix of this module's names in the state dict.

        Returns:
            The old and the new grid, or None if nothing was resized.

        Raises:
            ValueError: If the kernel does not match the grid that is stored with it. The message names the kernel.
        """
        name, half_name = f'{prefix}weight', f'{prefix}half_grid'
        weight, half = weights.get(name), weights.get(half_name)
        if half is None:
            weights[half_name] = self.half_grid
        if weight is None or weight.ndim != 4 or weight.shape[:2] != self.weight.shape[:2]:
            return None
        size = weight.shape[-1]
        if half is None and (weight.shape[-2] != size or size % 2 == 0):
            return None
        try:
            old = SharingGrid.dense(size) if half is None else stored_grid(half, half_name)
            if old == self.grid:
                return None
            weights[name] = resize_weight(weight, old, self.grid)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from error
        weights[half_name] = self.half_grid
        return old, self.grid

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs):
        before = state_dict.get(f'{prefix}weight')
        try:
            grids = self.fit_kernel(state_dict, prefix)
        except ValueError as error:
            error_msgs.append(str(error))
            return
        if grids is not None and not before.is_meta:
            old, new = grids
            change = resizing_error(before, old, state_dict[f'{prefix}weight'], new)
            if change > 0:
                _log(f'{prefix}weight: {describe_resizing(old, new)}, which changes it by {change:.1%}')
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def to_conv2d(self) -> nn.Conv2d:
        """Return a plain convolution with the expanded kernel and the same output. It does not need mmpelk."""
        channels, k = self.weight.shape[0], self.grid.kernel_size
        conv = nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, bias=self.bias is not None, device='meta')
        weight = self.grid.expand(self.weight.detach())
        conv.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        conv.bias = self.bias
        return conv.train(self.training)


@dataclass(frozen=True)
class Kernel:
    """A kernel that was grown: the number of channels, and the old and the new kernel size."""

    channels: int
    old: int
    new: int

    def __str__(self) -> str:
        return f'{self.old}x{self.old} -> {self.new}x{self.new}, {self.channels} channels'


@dataclass(frozen=True)
class Growth:
    """The result of :func:`grow_kernels`.

    Attributes:
        grown: The kernels that were replaced, by module name.
        left: The reasons why the other convolutions were not replaced, by module name. 1x1 convolutions are not listed.
    """

    grown: dict[str, Kernel] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [f'{len(self.grown)} kernels grown, {len(self.left)} convolutions unchanged']
        for part in (self.grown, self.left):
            for text, names in groupby(part, key=lambda name: str(part[name])):
                lines.append(f'  {_first_to_last(list(names))}: {text}')
        return '\n'.join(lines)


def grow_kernels(
    model: nn.Module,
    kernel_sizes: int | Sequence[int] | Mapping[str, int],
    *,
    base: int = 2,
    backend: str = 'auto',
) -> Growth:
    """Enlarge the depthwise kernels of a model in place. The outputs stay the same for inputs of any size.

    Every square depthwise ``nn.Conv2d`` with stride 1, dilation 1, and zero padding that keeps the size of the map becomes a
    :class:`mmpelk.ops.PeripheralConv2d` whose fine-grained center is the old kernel. The weights around it start at zero. Module
    names, device, dtype, ``requires_grad``, and the training mode are kept, and checkpoints of the original model can still be loaded.
    Build the optimizer afterward.

    Args:
        model: Any model, such as a ConvNeXt of timm, torchvision, transformers, or mmpretrain.
        kernel_sizes: The new odd kernel size: one for all kernels, one for each stage, or a dict of sizes by module name. A stage is a
            sequence of kernels with the same number of channels. A name in the dict applies to all kernels inside that module. Kernels
            that the dict does not name, and kernels that already have the new size, are not replaced.
        base: Growth factor of the grid's cells outside the center; see :meth:`mmpelk.ops.SharingGrid.peripheral`.
        backend: See :func:`mmpelk.ops.peripheral_conv2d`.

    Returns:
        The kernels that were replaced, and the reasons why the other convolutions were not.

    Raises:
        ValueError: If the model has no kernel that can grow, a size is even or smaller than the old kernel, or the number of sizes is
            not the number of stages. The model is then unchanged.

    Example:
        >>> model = timm.create_model('convnext_tiny', pretrained=True)
        >>> grow_kernels(model, (51, 49, 47, 13))
    """
    check_backend_name(backend)
    places = list(_convolutions(model))
    reasons = {name: _reason_to_leave(conv) for name, _, _, conv in places}
    growable = {name: conv for name, _, _, conv in places if reasons[name] is None}
    if not growable:
        raise ValueError(
            f'{type(model).__name__} has no kernel to grow: expected square depthwise nn.Conv2d with stride 1, dilation 1, and zero '
            f'padding that keeps the size of the map, found {_count(reasons)}'
        )
    sizes = _resolve_sizes(growable, kernel_sizes)
    grids = {}
    for name, size in sizes.items():
        old = growable[name].kernel_size[0]
        if not is_int(size) or size % 2 == 0 or size < old:
            raise ValueError(f'kernel_sizes must be odd and at least {old}, the old kernel size of {name}, got {size!r}')
        grids[name] = SharingGrid.peripheral(size, center_size=old, base=base)
    growth = Growth()
    replaced: dict[int, GrownConv2d] = {}
    for name, owner, key, conv in places:
        old = conv.kernel_size[0]
        if reasons[name] is not None:
            growth.left[name] = reasons[name]
        elif name not in grids:
            growth.left[name] = 'not named in kernel_sizes'
        elif grids[name].kernel_size == old:
            growth.left[name] = f'its kernel has size {old} already'
        else:
            # A module that is registered under two names remains a single module.
            setattr(owner, key, replaced.setdefault(id(conv), GrownConv2d(conv, grids[name], backend)))
            growth.grown[name] = Kernel(conv.in_channels, old, grids[name].kernel_size)
    return growth


def switch_to_deploy(model: nn.Module) -> int:
    """Replace every grown kernel of a model with a plain depthwise ``nn.Conv2d`` with the same output, in place.

    Afterward, the model does not need mmpelk, and any tool can export it. It runs more slowly, because it loses the sharing grids.

    Args:
        model: A model that :func:`grow_kernels` enlarged.

    Returns:
        The number of kernels that were replaced.
    """
    places = list(_convolutions(model, GrownConv2d))
    plain: dict[int, nn.Conv2d] = {}
    for _, owner, key, conv in places:
        setattr(owner, key, plain.setdefault(id(conv), conv.to_conv2d()))
    return len(places)


def describe_resizing(old: SharingGrid, new: SharingGrid) -> str:
    """Describe in one line how a kernel was resized."""
    return (
        f'{old.kernel_size}x{old.kernel_size} kernel (half grid {list(old.half)}) resized to '
        f'{new.kernel_size}x{new.kernel_size} (half grid {list(new.half)})'
    )


def _convolutions(model: nn.Module, kind: type[nn.Module] = nn.Conv2d) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Yield every module of a kind: its name, its parent module, its name in the parent, and the module itself.

    1x1 convolutions are skipped. The model itself is not yielded, because it cannot be replaced in place.
    """
    for path, owner in list(model.named_modules(remove_duplicate=False)):
        for key, child in owner._modules.items():
            if isinstance(child, kind) and set(child.kernel_size) != {1}:
                yield f'{path}.{key}' if path else key, owner, key, child


def _reason_to_leave(conv: nn.Conv2d) -> str | None:
    """Return why a convolution cannot grow, or None if it can."""
    kh, kw = conv.kernel_size
    if type(conv) is not nn.Conv2d:
        return f'{type(conv).__name__} is not a plain nn.Conv2d'
    if not conv.groups == conv.in_channels == conv.out_channels:
        return 'not depthwise'
    if kh != kw or kh % 2 == 0:
        return f'its kernel is {kh}x{kw}, not square and odd'
    if conv.stride != (1, 1):
        return f'its stride is {conv.stride}'
    if conv.dilation != (1, 1):
        return f'its dilation is {conv.dilation}'
    if conv.padding_mode != 'zeros' or conv.padding not in ('same', (kh // 2, kh // 2)):
        return f'its padding is {conv.padding!r} ({conv.padding_mode}), which does not keep the size of the map with zeros'
    if any((conv._forward_hooks, conv._forward_pre_hooks, conv._backward_hooks, conv._backward_pre_hooks)):
        return 'it has hooks, which would be lost'
    return None


def _resolve_sizes(growable: dict[str, nn.Conv2d], kernel_sizes: int | Sequence[int] | Mapping[str, int]) -> dict[str, int]:
    """Return the new size of each kernel by its name."""
    if isinstance(kernel_sizes, Mapping):
        return _sizes_by_name(list(growable), kernel_sizes)
    if isinstance(kernel_sizes, str) or not isinstance(kernel_sizes, Sequence):
        return dict.fromkeys(growable, kernel_sizes)
    stages = [list(names) for _, names in groupby(growable, key=lambda name: growable[name].in_channels)]
    if len(stages) != len(kernel_sizes):
        widths = ', '.join(str(growable[names[0]].in_channels) for names in stages)
        raise ValueError(
            f'kernel_sizes must have one size for each of the {len(stages)} stages (of {widths} channels), got {len(kernel_sizes)}: '
            f'{tuple(kernel_sizes)}'
        )
    return {name: size for names, size in zip(stages, kernel_sizes, strict=True) for name in names}


def _sizes_by_name(names: list[str], kernel_sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the sizes of the kernels that ``kernel_sizes`` names. The longest name that matches a kernel decides."""
    sizes, used = {}, set()
    for name in names:
        keys = [key for key in kernel_sizes if name == key or name.startswith(f'{key}.')]
        used.update(keys)
        if keys:
            sizes[name] = kernel_sizes[max(keys, key=len)]
    unknown = [key for key in kernel_sizes if key not in used]
    if unknown:
        raise ValueError(
            f'kernel_sizes names {unknown[0]!r}, but the model has no kernel to grow there; its kernels are {names[0]!r} and so on'
        )
    return sizes


def _count(reasons: dict[str, str]) -> str:
    """Summarize why no convolution can grow."""
    counts: dict[str, int] = {}
    for reason in reasons.values():
        counts[reason] = counts.get(reason, 0) + 1
    found = [f'{count}: {reason}' for reason, count in counts.items()]
    return 'no convolution larger than 1x1' if not found else f'{len(reasons)} convolutions ({"; ".join(found)})'


def _first_to_last(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f'{names[0]} ... {names[-1]} ({len(names)})'


def _log(message: str) -> None:
    """Log with mmengine if it has been imported, and with Python's logging otherwise."""
    if sys.modules.get('mmengine'):
        from mmengine.logging import print_log

        print_log(message, 'current', logging.WARNING)
    else:
        logging.getLogger('mmpelk').warning(message)
