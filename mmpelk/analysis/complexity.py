"""Count the parameters and multiply-adds of a config as the paper does."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmpelk.models.token_mixer import TokenMixer
from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d
from mmpelk.utils.errors import build_errors

# The number of boxes and masks that the heads of a detector process, as in mmdet's and the paper's figures.
NUM_BOXES, NUM_MASKS = 1000, 100
# The parts of the backbone: patterns for the names of their modules.
PARTS = {
    'stem and downsampling': r'_Network\.model\.backbone\.downsample_layers\.\d',
    'large kernels': r'.*\.token_mixer',
    'MLP': r'.*\.pointwise_conv\d',
}


@dataclass(frozen=True)
class Complexity:
    """The counts of one model at one input size. Multiply-adds are for one image.

    Attributes:
        params: Number of parameters.
        kept_params: Number of parameters that remain at the density. The density applies to the 2-D and 4-D weights of the sparse
            modules; all other parameters count in full.
        macs: Multiply-adds of convolutions, linear layers, and attention.
        kept_macs: Multiply-adds that remain at the density.
        parts: Dense multiply-adds of the parts of the backbone ('stem and downsampling', 'large kernels', 'small kernels', 'h', 'MLP',
            'other') and of the 'head'. ``macs`` includes neither 'small kernels', which merge into the large ones, nor 'h'.
    """

    params: int
    kept_params: float
    macs: int
    kept_macs: float
    parts: dict[str, int]


def complexity(cfg: Config, size: tuple[int, int], density: float = 1.0) -> Complexity:
    """Count the parameters and multiply-adds of a config's model.

    The model runs on torch's meta device, so nothing is computed. A depthwise convolution counts every tap of the full kernel, as in a
    dense evaluation, including the taps beyond the map.

    Args:
        cfg: Config of a classifier, segmentor, or detector of OpenMMLab.
        size: (H, W) of the input.
        density: Fraction of the 2-D and 4-D weights that are kept in the backbone, and in the head of a classifier.

    Returns:
        The counts. The auxiliary head of a segmentor has parameters but does not run in inference, so it has no multiply-adds.
    """
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    with build_errors():
        model = MODELS.build(copy.deepcopy(cfg.model)).to('meta').eval()
    sparse = nn.ModuleList([model.backbone] + ([model.head] if scope == 'mmpretrain' else []))
    params = sum(p.numel() for p in model.parameters())
    pruned = sum(p.numel() for p in sparse.parameters() if p.ndim in (2, 4)) if density < 1 else 0
    small = _take_small_kernels(model.backbone)
    network = _Network(model, run_detector if scope == 'mmdet' else nn.Module.__call__)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, *size, device='meta'))
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    macs, backbone_macs = counts['Global'], counts['_Network.model.backbone']
    parts = {part: sum(n for name, n in counts.items() if re.fullmatch(pattern, name)) for part, pattern in PARTS.items()}
    parts['other'] = backbone_macs - sum(parts.values())
    parts['small kernels'] = sum(
        weights * counts[f'_Network.model.backbone.{name}'] // taps for name, (weights, taps) in small.items()
    )
    parts['h'] = _positional_embeddings(model.backbone)
    parts['head'] = macs - backbone_macs
    sparse_macs = macs if scope == 'mmpretrain' else backbone_macs
    return Complexity(params, params - (1 - density) * pruned, macs, macs - (1 - density) * sparse_macs, parts)


class _Network(nn.Module):
    """Wrap a model, so that the FLOP counter names every part from the same root."""

    def __init__(self, model: nn.Module, run: Callable[[nn.Module, Tensor], object]) -> None:
        super().__init__()
        self.model = model
        self.run = run

    def forward(self, image: Tensor) -> None:
        self.run(self.model, image)


def _take_small_kernels(backbone: nn.Module) -> dict[str, tuple[int, int]]:
    """Remove the small branches, because they merge into the large kernels.

    Returns:
        The number of taps of the small and of the large kernel, by the name of the token mixer.
    """
    taken = {}
    for name, module in backbone.named_modules():
        if isinstance(module, TokenMixer) and module.small is not None:
            large = [part for part in module.large.modules() if isinstance(part, DepthwiseConv2d | PeripheralConv2d)]
            taken[name] = math.prod(module.small.kernel_size), sum(math.prod(part.kernel_size) for part in large)
            module.small = module.small_norm = None
    return taken


def _positional_embeddings(backbone: nn.Module) -> int:
    """Count the multiply-adds that sum the positional embeddings h, once for each kernel."""
    stages = [stage for stage in getattr(backbone, 'stages', []) if getattr(stage, 'pos_embed', None) is not None]
    return sum(block.token_mixer.conv_channels * stage.pos_embed[0].numel() for stage in stages for block in stage)


def run_detector(model: nn.Module, image: Tensor) -> None:
    """Run the network of a detector without selecting boxes, which depends on values. The heads process a fixed number of regions."""
    features = model.extract_feat(image)
    model.rpn_head(features)
    heads = model.roi_head

    def regions(count: int, extractor: nn.Module) -> Tensor:
        height, width = extractor.roi_layers[0].output_size
        return image.new_empty(count, extractor.out_channels, height, width)

    for extractor, head in zip(heads.bbox_roi_extractor, heads.bbox_head, strict=True):
        head(regions(NUM_BOXES, extractor))
    for extractor, head in zip(heads.mask_roi_extractor, heads.mask_head, strict=True):
        head(regions(NUM_MASKS, extractor))
