"""Rename the weights of ConvNeXt, SLaK, and RepLKNet checkpoints to PeLK's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmpelk.models import PeLK

from .fit import resized_shapes

BLOCK = r'stages\.(\d+)\.(?:blocks\.)?(\d+)\.'
OURS = r'backbone.stages.\1.\2.'
# One list serves official ConvNeXt and SLaK, timm's ConvNeXt, and mmpretrain's ConvNeXt, because their names do not clash.
RULES = [
    (r'stem\.(\d)\.', r'backbone.downsample_layers.0.\1.'),  # timm
    (r'stages\.(\d+)\.downsample\.(\d)\.', r'backbone.downsample_layers.\1.\2.'),  # timm
    (r'downsample_layers\.', 'backbone.downsample_layers.'),
    (BLOCK + r'(?:dwconv|conv_dw|depthwise_conv)\.', OURS + 'token_mixer.large.'),
    (BLOCK + r'large_kernel\.LoRA1\.conv\.', OURS + 'token_mixer.large.vertical.'),
    (BLOCK + r'large_kernel\.LoRA1\.bn\.', OURS + 'token_mixer.large.vertical_norm.'),
    (BLOCK + r'large_kernel\.LoRA2\.conv\.', OURS + 'token_mixer.large.horizontal.'),
    (BLOCK + r'large_kernel\.LoRA2\.bn\.', OURS + 'token_mixer.large.horizontal_norm.'),
    (BLOCK + r'large_kernel\.lkb_origin\.conv\.', OURS + 'token_mixer.large.'),
    (BLOCK + r'large_kernel\.lkb_origin\.bn\.', OURS + 'token_mixer.large_norm.'),
    (BLOCK + r'large_kernel\.lkb_reparam\.', OURS + 'token_mixer.large.'),
    (BLOCK + r'large_kernel\.small_conv\.conv\.', OURS + 'token_mixer.small.'),
    (BLOCK + r'large_kernel\.small_conv\.bn\.', OURS + 'token_mixer.small_norm.'),
    (BLOCK + r'(?:pwconv1|mlp\.fc1|pointwise_conv1)\.', OURS + 'pointwise_conv1.'),
    (BLOCK + r'(?:pwconv2|mlp\.fc2|pointwise_conv2)\.', OURS + 'pointwise_conv2.'),
    (BLOCK + r'norm\.', OURS + 'norm.'),
    (BLOCK + r'gamma$', OURS + 'gamma'),
    (r'(?:norm|head\.norm|norm3)\.', 'backbone.norm3.'),
    (r'head\.(?:fc\.)?(weight|bias)$', r'head.fc.\1'),
]


class Row(NamedTuple):
    """A line of the conversion report, for all keys that differ only in their stage and block numbers."""

    source: str
    target: str
    count: int
    state: str


def source_weights(checkpoint: Mapping[str, object], ema: bool = False) -> dict[str, Tensor]:
    """Return the weights of a foreign checkpoint without DDP's 'module.' prefix.

    Args:
        checkpoint: A checkpoint with the weights under 'state_dict' or 'model', or a state dict.
        ema: Whether to take the averaged weights under 'model_ema'.

    Raises:
        KeyError: If ``ema`` is true and the checkpoint has no 'model_ema'.
    """
    key = 'model_ema' if ema else next((key for key in ('state_dict', 'model') if key in checkpoint), None)
    weights = checkpoint if key is None else checkpoint[key]
    return {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}


def convert_name(name: str) -> str | None:
    """Return PeLK's name for a foreign name, with the prefix 'backbone.' or 'head.', or None if PeLK has no such weight.

    PeLK's own names are returned unchanged.
    """
    if re.match(r'backbone\.stages\.\d+\.\d+\.token_mixer\.', name):
        return name
    name = name.removeprefix('backbone.')
    for pattern, ours in RULES:
        match = re.match(pattern, name)
        if match:
            return match.expand(ours) + name[match.end() :]
    return None


def convert(weights: Mapping[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], list[Row]]:
    """Rename foreign weights to a model's names.

    A depthwise kernel without a ``half_grid`` is given the dense grid, so that it is resized on loading if the model has another grid.

    Args:
        weights: The weights by their foreign names.
        model: A classifier, segmentor, or detector with a PeLK as ``backbone``, or a PeLK itself.

    Returns:
        The weights that fit the model, by names with the prefix 'backbone.' or 'head.', and the report: the new name of each key, the
        keys that are not used, and the model's weights that are missing.
    """
    renamed, targets = {}, {}
    for source, value in weights.items():
        name = convert_name(source)
        if name is not None:
            renamed[name], targets[source] = value, name
    for name in [name for name in renamed if re.search(r'token_mixer\.large\.weight$', name)]:
        grid = name.replace('.weight', '.half_grid')
        renamed.setdefault(grid, torch.ones(renamed[name].shape[-1] // 2 + 1, dtype=torch.long))
    prefix = 'backbone.' if isinstance(model, PeLK) else ''
    on_grid = {name.removeprefix(prefix): value for name, value in renamed.items()}
    on_grid, _ = resized_shapes(on_grid, model)
    expected = model.state_dict()
    fits, states = {}, {}
    for name, value in renamed.items():
        own = name.removeprefix(prefix)
        if own not in expected:
            states[name] = 'unused: not in the model'
        elif on_grid[own].shape != expected[own].shape:
            states[name] = f'unused: {tuple(value.shape)}, the model needs {tuple(expected[own].shape)}'
        else:
            fits[name] = value
            states[name] = 'loaded' if on_grid[own].shape == value.shape else 'loaded, resized'
    rows = [(source, targets.get(source, '-'), states.get(targets.get(source), 'unused: unknown name')) for source in weights]
    rows += [('-', name, 'missing') for name in expected if prefix + name not in fits and not name.endswith('half_grid')]
    return fits, _grouped(rows)


def matched_share(fits: Mapping[str, Tensor], model: nn.Module) -> float:
    """Return the fraction of the backbone's tensors for which there are converted weights."""
    backbone = model if isinstance(model, PeLK) else model.backbone
    return sum(f'backbone.{name}' in fits for name in backbone.state_dict()) / len(backbone.state_dict())


def format_table(rows: list[Row]) -> str:
    """Format the report as text, one line per row."""
    header = Row('key', 'new key', 'keys', 'state')
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(2)]
    return '\n'.join(f'{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>4}  {row[3]}' for row in [header, *rows])


def _grouped(rows: list[tuple[str, str, str]]) -> list[Row]:
    """Join rows that differ only in their stage and block numbers."""
    counts: dict[tuple[str, str, str], int] = {}
    for source, name, state in rows:
        state = re.sub(r'\([\d, ]+\), the model needs \([\d, ]*\)', 'of another shape', state) if '*' in _starred(name) else state
        key = (_starred(source), _starred(name), state)
        counts[key] = counts.get(key, 0) + 1
    return [Row(source, name, count, state) for (source, name, state), count in counts.items()]


def _starred(name: str) -> str:
    """Replace the stage and block numbers in a name with stars."""
    name = re.sub(r'stages\.\d+\.(blocks\.)?\d+\.', r'stages.*.\1*.', name)
    return re.sub(r'(stages|downsample_layers)\.\d+\.', r'\1.*.', name)
