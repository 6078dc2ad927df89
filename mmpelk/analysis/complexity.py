"""Parameters and multiply-adds of a config, as the paper counts them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmpelk.models.token_mixer import DepthwiseConv, PeripheralConv, TokenMixer

# Boxes and masks that a detector's heads are counted with, as mmdet's and the paper's figures are.
NUM_BOXES, NUM_MASKS = 1000, 100


@dataclass(frozen=True)
class Complexity:
    """Of one model at one input size. Multiply-adds are those of one image.

    Attributes:
        params: Parameters.
        kept_params: Parameters left at the density: of the sparse part's 2-D and 4-D weights this share, and all others.
        macs: Multiply-adds of convolutions, linear layers and attention.
        kept_macs: Multiply-adds left at the density.
        parts: Dense multiply-adds of the backbone's parts: 'stem and downsampling', 'large kernels', 'small kernels', 'h', 'MLP', 'other',
            and of the 'head'. Small kernels merge into the large ones and do not count in ``macs``; nor does h.
    """

    params: int
    kept_params: float
    macs: int
    kept_macs: float
    parts: dict[str, int]


def complexity(cfg: Config, size: tuple[int, int], density: float = 1.0) -> Complexity:
    """Count a config's model.

    Nothing is computed: the model runs on torch's meta device. Depthwise convolutions count every tap of the full kernel, as a dense
    evaluation would need them, also those beyond the map.

    Args:
        cfg: A classifier, segmentor or detector of OpenMMLab.
        size: (H, W) of the input.
        density: Share of the 2-D and 4-D weights that are kept in the backbone, and in a classifier's head.

    Returns:
        The counts. A segmentor's auxiliary head has parameters, but does not run in inference.
    """
    scope = cfg.get('default_scope', 'mmengine')
    init_default_scope(scope)
    model = MODELS.build(copy.deepcopy(cfg.model)).to('meta').eval()
    run = _run_detector if scope == 'mmdet' else nn.Module.__call__
    sparse = nn.ModuleList([model.backbone] + ([model.head] if scope == 'mmpretrain' else []))
    image = torch.empty(1, 3, *size, device='meta')
    with _full_kernels(model):
        backbone_macs, parts = _backbone(model.backbone, image)
        macs = _count(lambda: run(model, image))
    params = sum(p.numel() for p in model.parameters())
    pruned = sum(p.numel() for p in sparse.parameters() if p.ndim in (2, 4)) if density < 1 else 0
    sparse_macs = macs if scope == 'mmpretrain' else backbone_macs
    parts['head'] = macs - backbone_macs
    return Complexity(params, params - (1 - density) * pruned, macs, macs - (1 - density) * sparse_macs, parts)


def _count(run) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def _backbone(backbone: nn.Module, image: Tensor) -> tuple[int, dict[str, int]]:
    """The backbone's multiply-adds and what its parts have of them."""
    parts = dict.fromkeys(('stem and downsampling', 'large kernels', 'small kernels', 'h', 'MLP'), 0)
    handles = []

    def note(part: str):
        def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            positions = output.shape[-2] * output.shape[-1]
            if isinstance(module, DepthwiseConv | PeripheralConv):
                kh, kw = _kernel_size(module)
                parts[part] += output.shape[1] * positions * kh * kw
            elif isinstance(module, nn.Conv2d):
                parts[part] += positions * module.weight.numel()
            else:
                parts[part] += output.numel() // output.shape[-1] * module.weight.numel()

        return hook

    for name, module in backbone.named_modules():
        if isinstance(module, TokenMixer):
            large = [part for part in module.large.modules() if isinstance(part, DepthwiseConv | PeripheralConv)]
            handles += [part.register_forward_hook(note('large kernels')) for part in large]
            if module.small is not None:
                handles.append(module.small.register_forward_hook(note('small kernels')))
        elif isinstance(module, nn.Conv2d) and 'downsample_layers' in name:
            handles.append(module.register_forward_hook(note('stem and downsampling')))
        elif isinstance(module, nn.Linear) and 'pointwise_conv' in name:
            handles.append(module.register_forward_hook(note('MLP')))
    macs = _count(lambda: backbone(image))
    for handle in handles:
        handle.remove()
    for stage in getattr(backbone, 'stages', []):
        if getattr(stage, 'pos_embed', None) is not None:
            parts['h'] += sum(block.token_mixer.conv_channels for block in stage) * stage.pos_embed[0].numel()
    parts['other'] = macs - sum(parts[part] for part in ('stem and downsampling', 'large kernels', 'MLP'))
    return macs, parts


def _kernel_size(module: DepthwiseConv | PeripheralConv) -> tuple[int, int]:
    if isinstance(module, PeripheralConv):
        return module.grid.kernel_size, module.grid.kernel_size
    return tuple(module.weight.shape[-2:])


@contextmanager
def _full_kernels(model: nn.Module) -> Iterator[None]:
    """Let the counter see depthwise convolutions as torch's, with all taps, and small kernels, which merge, not at all."""
    small = {id(module.small) for module in model.modules() if isinstance(module, TokenMixer) and module.small is not None}

    def forward(module: nn.Module):
        kh, kw = _kernel_size(module)
        channels = module.weight.shape[0]
        kernel = torch.empty(channels, 1, kh, kw, device='meta')
        if id(module) in small:
            return torch.empty_like
        return lambda x: F.conv2d(x, kernel, padding=(kh // 2, kw // 2), groups=channels)

    convs = [module for module in model.modules() if isinstance(module, DepthwiseConv | PeripheralConv)]
    for module in convs:
        module.forward = forward(module)
    try:
        yield
    finally:
        for module in convs:
            del module.forward


def _run_detector(model: nn.Module, image: Tensor) -> None:
    """A detector's network without the selection of boxes, which depends on their values: heads see a fixed number of regions."""
    features = model.extract_feat(image)
    model.rpn_head(features)
    heads = model.roi_head

    def regions(count: int, extractor: nn.Module) -> Tensor:
        height, width = extractor.roi_layers[0].output_size
        return image.new_empty(count, extractor.out_channels, height, width)

    for extractor, head in zip(heads.bbox_roi_extractor, heads.bbox_head):
        head(regions(NUM_BOXES, extractor))
    for extractor, head in zip(heads.mask_roi_extractor, heads.mask_head):
        head(regions(NUM_MASKS, extractor))
