"""Check that the weights of a checkpoint fit a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmpelk.models import PeLK
from mmpelk.models.backbones import depthwise_kernels, large_kernel_backbones
from mmpelk.models.growing import GrownConv2d, describe_resizing
from mmpelk.utils.errors import InputError, argument_errors

from .reading import model_weights

# A checkpoint that is loaded non-strictly must match at least this fraction of the model's tensors.
MIN_MATCHED = 0.5


def check_prefix(checkpoint: Mapping[str, Any], prefix: str, path: str | Path) -> None:
    """Check that a checkpoint has weights whose names start with ``prefix``.

    Raises:
        InputError: If it has none. The message lists the prefixes that the checkpoint has.
    """
    if not model_weights(checkpoint, prefix):
        there = sorted({name.split('.')[0] + '.' for name in model_weights(checkpoint)})
        names = f'its names begin with {", ".join(there[:8])}' if there else 'it contains no weights'
        raise InputError(f"checkpoint {path} has no weights under prefix '{prefix}': {names}")


def resized_shapes(weights: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """Compute the shapes that weights have once they are loaded into a model, which resizes kernels from other grids.

    The kernels are resized on the meta device, which computes shapes without values.

    Args:
        weights: A state dict.
        model: The model to load into.

    Returns:
        Meta tensors with the shapes after loading, and one line of text for each stage that would be resized.

    Raises:
        InputError: If a kernel does not match its grid.
    """
    shapes = {name: value if name.endswith('half_grid') else value.to('meta') for name, value in weights.items()}
    lines = []
    for name, module in model.named_modules():
        prefix = f'{name}.' if name else ''
        if isinstance(module, PeLK):
            lines += module.fit_kernels(shapes, prefix)
        elif isinstance(module, GrownConv2d):
            with argument_errors():
                grids = module.fit_kernel(shapes, prefix)
            if grids is not None:
                lines.append(f'{prefix}weight: {describe_resizing(*grids)}')
    return shapes, lines


def check_fit(
    weights: Mapping[str, Tensor], model: nn.Module, path: str | Path, strict: bool = True, resize: bool = True
) -> None:
    """Check by names and shapes that weights fit a model.

    Args:
        weights: The weights from the checkpoint.
        model: The model to load into.
        path: The checkpoint file, for the message.
        strict: Whether names and shapes must match exactly. Otherwise, at least half of the model's tensors and all depthwise kernels
            of a PeLK or a backbone with grown kernels must match. Shapes may differ outside these backbones, such as in a head for
            other classes.
        resize: Whether kernels of other grids are allowed. They are resized on loading.

    Raises:
        InputError: If the weights do not fit. The message gives the numbers of tensors that are missing, unexpected, or have another
            shape, each with an example.
    """
    try:
        shapes, resized = resized_shapes(weights, model)
    except InputError as error:
        raise InputError(f'checkpoint {path}: {error}') from error
    if resized and not resize:
        raise InputError(
            f'checkpoint {path} was trained with other kernels ({resized[0]}); start from it with --pretrained instead'
        )
    expected = model.state_dict()
    missing = [name for name in expected if name not in shapes]
    unexpected = [name for name in shapes if name not in expected] if strict else []
    misshapen = [name for name in expected if name in shapes and shapes[name].shape != expected[name].shape]
    matched = len(expected) - len(missing) - len(misshapen)
    backbones = large_kernel_backbones(model)
    in_backbone = tuple(prefix for prefix, _ in backbones)
    misshapen.sort(key=lambda name: not name.startswith(in_backbone))  # tensors of the backbone first
    kernels = {prefix + name for prefix, backbone in backbones for name in depthwise_kernels(backbone)}
    missing.sort(key=lambda name: name not in kernels)  # kernels first
    broken = (misshapen and misshapen[0].startswith(in_backbone)) or (missing and missing[0] in kernels)
    needed = len(expected) if strict else MIN_MATCHED * len(expected)
    if matched >= needed and not unexpected and not broken:
        return
    faults = []
    if misshapen:
        name = misshapen[0]
        faults.append(
            f'{len(misshapen)} have another shape '
            f'({name} is {tuple(shapes[name].shape)}, the model needs {tuple(expected[name].shape)})'
        )
    for kind, names in (('missing', missing), ('unexpected', unexpected)):
        if names:
            faults.append(f'{len(names)} are {kind} ({names[0]})')
    raise InputError(
        f'checkpoint {path} belongs to another model: {matched} of {len(expected)} tensors fit, ' + ', '.join(faults)
    )
