"""Rename the weights of ConvNeXt and SLaK checkpoints to the names of a model.

Each package that publishes weights of ConvNeXt names them differently. The names of each package are translated to PeLK's, and so are the
names of the model that will load the weights. A model from any of these packages can therefore load the weights of any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmpelk.utils.errors import InputError

from .fit import resized_shapes

STAGES = r'(?:encoder\.)?stages[._](\d+)\.'
BLOCK = STAGES + r'(?:blocks\.|layers\.)?(\d+)\.'
OURS = r'backbone.stages.\1.\2.'
# Prefixes of a backbone's names. transformers has 'model.' in DINOv3, and OpenMMLab's wrapper of timm has 'timm_model.'.
WRAPPERS = re.compile(r'(?:backbone\.|timm_model\.|convnext\.|convnextv2\.|model\.)*')
# One list serves the official ConvNeXt, ConvNeXt V2, DINOv3, and SLaK, and the ConvNeXts of timm, transformers, and mmpretrain,
# because their names do not clash.
RULES = [
    (r'stem[._](\d)\.', r'backbone.downsample_layers.0.\1.'),  # timm
    (r'embeddings\.patch_embeddings\.', 'backbone.downsample_layers.0.0.'),  # transformers
    (r'embeddings\.layernorm\.', 'backbone.downsample_layers.0.1.'),  # transformers
    (STAGES + r'(?:downsample|downsampling_layer|downsample_layers)\.(\d)\.', r'backbone.downsample_layers.\1.\2.'),
    (r'downsample_layers\.', 'backbone.downsample_layers.'),
    (BLOCK + r'token_mixer\.', OURS + 'token_mixer.'),
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
    (BLOCK + r'(?:mlp\.)?grn\.(?:gamma|weight)$', OURS + 'grn.gamma'),
    (BLOCK + r'(?:mlp\.)?grn\.(?:beta|bias)$', OURS + 'grn.beta'),
    (BLOCK + r'(?:norm|layernorm|layer_norm)\.', OURS + 'norm.'),
    (BLOCK + r'(?:gamma|layer_scale_parameter)$', OURS + 'gamma'),
    (r'norm([0-3])\.', r'backbone.norm\1.'),  # OpenMMLab's backbones with several outputs
    (r'norms\.3\.', 'backbone.norm3.'),  # DINOv3, a second name of its last norm
    (r'(?:norm|head\.norm|layernorm|layer_norm)\.', 'backbone.norm3.'),
    (r'(?:head\.fc|head|classifier)\.(weight|bias)$', r'head.fc.\1'),
]
# In transformers, the norm of stage n has the name 'stage<n>', from 1 to 4.
TRANSFORMERS_NORM = re.compile(r'hidden_states_norms\.stage([1-4])\.(weight|bias)$')
# torchvision numbers the stem, the stages, and the layers between them consecutively, from 0 to 7.
TORCHVISION = re.compile(r'features\.(\d)\.(\d+)\.(weight|bias|layer_scale|block\.(\d)\.(weight|bias))$')
TORCHVISION_BLOCK = {'0': 'token_mixer.large', '2': 'norm', '3': 'pointwise_conv1', '5': 'pointwise_conv2'}
TORCHVISION_HEAD = {'classifier.0': 'backbone.norm3', 'classifier.2': 'head.fc'}
# Names that do not belong to a backbone. 'projectors' is in distilled DINOv3 models.
NOT_BACKBONE = re.compile(r'(?!head\.norm\.)(?:\w*head|neck|classifier|projectors|data_preprocessor)\.')


class Row(NamedTuple):
    """A line of the conversion report, for all keys that differ only in their stage and block numbers."""

    source: str
    target: str
    count: int
    state: str


class Conversion(NamedTuple):
    """Weights with the names of a model, and the outcome for each name.

    Attributes:
        weights: The weights that fit the model. Names of the backbone begin with 'backbone.'.
        states: The foreign name, the model's name, and the outcome, such as 'loaded'. A '-' replaces a name that does not exist.
    """

    weights: dict[str, Tensor]
    states: list[tuple[str, str, str]]

    def missing(self) -> list[str]:
        """Return the names in the backbone that have no weights, without the prefix 'backbone.'."""
        names = [name for source, name, _ in self.states if source == '-']
        return [name.removeprefix('backbone.') for name in names if name.startswith('backbone.')]

    def unused(self) -> list[str]:
        """Return the foreign names that seem to belong to the backbone and are not used."""
        names = [source for source, _, state in self.states if state.startswith('unused')]
        return [name for name in names if not NOT_BACKBONE.match(WRAPPERS.sub('', name, count=1))]

    def check(self, path: str | Path, allow_missing: Iterable[str] = (), allow_unused: Iterable[str] = ()) -> None:
        """Check that no weight of the backbone is missing, and that every weight of the foreign backbone is used.

        Args:
            path: The foreign checkpoint, for the message.
            allow_missing: Patterns such as 'norm0.*' of names in the backbone that may start from their initialization.
            allow_unused: Patterns of foreign names that may be dropped.

        Raises:
            InputError: If names that no pattern allows are missing or unused. The message lists them.
        """
        problems, flags = [], []
        for problem, flag, names, patterns in (
            ('lacks {} tensors of the backbone', '--allow-missing', self.missing(), tuple(allow_missing)),
            ('has {} tensors that the backbone does not have', '--allow-unused', self.unused(), tuple(allow_unused)),
        ):
            refused = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)]
            if refused:
                starred = list(dict.fromkeys(_starred(name) for name in refused))
                more = f', and {len(starred) - 4} more' if len(starred) > 4 else ''
                problems.append(f'it {problem.format(len(refused))} ({", ".join(starred[:4])}{more})')
                flags.append(flag)
        if problems:
            raise InputError(
                f'checkpoint {path} does not fit the backbone: {"; ".join(problems)}. If this is intended, convert it with '
                f'tools/convert_checkpoint.py and {" and ".join(flags)}'
            )

    def rows(self) -> list[Row]:
        """Return the report. Names that differ only in their stage and block numbers share a row."""
        counts: dict[tuple[str, str, str], int] = {}
        for source, name, state in self.states:
            starred = _starred(source), _starred(name)
            if '*' in starred[1]:
                state = re.sub(r'\([\d, ]+\), the model needs \([\d, ]*\)', 'of another shape', state)
            counts[(*starred, state)] = counts.get((*starred, state), 0) + 1
        return [Row(source, name, count, state) for (source, name, state), count in counts.items()]


def source_weights(checkpoint: Mapping[str, object], ema: bool = False) -> dict[str, Tensor]:
    """Return the weights of a foreign checkpoint without DDP's 'module.' prefix.

    Args:
        checkpoint: A checkpoint with the weights under 'state_dict' or 'model', or a state dict.
        ema: Whether to use the averaged weights under 'model_ema'.

    Raises:
        KeyError: If ``ema`` is true and the checkpoint has no 'model_ema'.
        InputError: If the weights are not a dict with names.
    """
    key = 'model_ema' if ema else next((key for key in ('state_dict', 'model') if key in checkpoint), None)
    weights = checkpoint if key is None else checkpoint[key]
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise InputError(f"the checkpoint has a {type(weights).__name__} as '{key}'; expected a dict of weights by their names")
    return {name.removeprefix('module.'): value for name, value in weights.items() if isinstance(value, Tensor)}


def convert_name(name: str) -> str | None:
    """Return PeLK's name for a foreign name, with the prefix 'backbone.' or 'head.', or None if PeLK has no such weight.

    PeLK's own names are returned unchanged.
    """
    name = WRAPPERS.sub('', name, count=1)
    if match := TORCHVISION.match(name):
        return _torchvision_name(*match.groups())
    module, _, kind = name.rpartition('.')
    if module in TORCHVISION_HEAD:
        return f'{TORCHVISION_HEAD[module]}.{kind}'
    if match := TRANSFORMERS_NORM.match(name):
        return f'backbone.norm{int(match[1]) - 1}.{match[2]}'
    for pattern, ours in RULES:
        if match := re.match(pattern, name):
            return match.expand(ours) + name[match.end() :]
    return None


def _torchvision_name(part: str, index: str, rest: str, layer: str | None, kind: str | None) -> str | None:
    """Return PeLK's name for 'features.<part>.<index>.<rest>' of torchvision, where rest may be 'block.<layer>.<kind>'."""
    stage, is_stage = divmod(int(part), 2)
    if not is_stage:
        return f'backbone.downsample_layers.{stage}.{index}.{rest}' if layer is None else None
    block = f'backbone.stages.{stage}.{index}.'
    if rest == 'layer_scale':
        return f'{block}gamma'
    return f'{block}{TORCHVISION_BLOCK[layer]}.{kind}' if layer in TORCHVISION_BLOCK else None


def convert(weights: Mapping[str, Tensor], model: nn.Module) -> Conversion:
    """Rename foreign weights to a model's names.

    Names that already exist in the model, such as those of heads, are kept. 1x1 convolutions become linear layers, and vice versa. A
    depthwise kernel without a ``half_grid`` is given the dense grid, so that it is resized on loading if the model has another grid.

    Args:
        weights: The weights by their foreign names.
        model: A classifier, segmentor, or detector with a PeLK or a ConvNeXt as ``backbone``, or such a backbone itself.
    """
    prefix = '' if hasattr(model, 'backbone') else 'backbone.'
    expected = {prefix + name: value for name, value in model.state_dict().items()}
    # The model's names by PeLK's names. A PeLK's names are its own.
    own_names = {convert_name(name) or name: name for name in expected}
    own_grids = {name for name in expected if name.endswith('half_grid')}
    renamed: dict[str, Tensor] = {}
    targets: dict[str, str] = {}
    states: dict[str, str] = {}
    for source, value in weights.items():
        name = source if source in expected else own_names.get(ours := convert_name(source), ours)
        if name is None:
            states[source] = 'unused: unknown name'
        elif name in renamed and not torch.equal(renamed[name], value):
            states[source] = 'unused: another tensor has this name'
        else:
            targets[source] = name
            renamed[name] = _reshaped(value, expected.get(name))
    for grid in own_grids:
        kernel = grid.replace('half_grid', 'weight')
        if kernel in renamed:
            renamed.setdefault(grid, torch.ones(renamed[kernel].shape[-1] // 2 + 1, dtype=torch.long))
    shapes, _ = resized_shapes({name.removeprefix(prefix): value for name, value in renamed.items()}, model)
    fits = {}
    for source, name in targets.items():
        own = name.removeprefix(prefix)
        if name not in expected:
            states[source] = 'unused: not in the model'
        elif shapes[own].shape != expected[name].shape:
            states[source] = f'unused: {tuple(renamed[name].shape)}, the model needs {tuple(expected[name].shape)}'
        else:
            fits[name] = renamed[name]
            states[source] = 'loaded' if shapes[own].shape == renamed[name].shape else 'loaded, resized'
    fits.update({name: renamed[name] for name in own_grids if name.replace('half_grid', 'weight') in fits})
    rows = [(source, targets.get(source, '-'), states[source]) for source in weights]
    rows += [('-', name, 'missing') for name in expected if name not in fits and name not in own_grids]
    return Conversion(fits, rows)


def _reshaped(value: Tensor, expected: Tensor | None) -> Tensor:
    """Return a weight in the expected shape if that only adds or removes dimensions of size 1."""
    if expected is None or [size for size in value.shape if size != 1] != [size for size in expected.shape if size != 1]:
        return value
    return value.reshape(expected.shape)


def format_table(rows: list[Row]) -> str:
    """Format the report as text, one line per row."""
    header = Row('key', 'new key', 'keys', 'state')
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(2)]
    return '\n'.join(f'{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>4}  {row[3]}' for row in [header, *rows])


def _starred(name: str) -> str:
    """Replace the stage and block numbers in a name with stars."""
    name = re.sub(r'(stages[._])\d+\.(blocks\.|layers\.)?(\d+\.)?', lambda m: f'{m[1]}*.{m[2] or ""}{"*." if m[3] else ""}', name)
    name = re.sub(r'features\.[1357]\.\d+\.', 'features.*.*.', name)
    return re.sub(r'downsample_layers\.\d+\.', 'downsample_layers.*.', name)
