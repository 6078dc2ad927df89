"""Time inference and training steps of PeLK and of the models that it is compared with, and measure the memory of training."""

from __future__ import annotations

import copy
import multiprocessing
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import Tensor, nn

from mmpelk.engine.config import read_config
from mmpelk.models import PeLK
from mmpelk.ops import DepthwiseConv2d
from mmpelk.utils.memory import from_proc
from mmpelk.utils.torchvision_compat import declare_missing_operators

from .benchmark_report import PRECISIONS, Report, Settings, measure
from .configs import packaged_config
from .paper import TABLE8

WIDE = 'ConvNeXt-T x 1.3'
WIDE_CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=(3, 3, 9, 3), channels=(124, 249, 499, 998)),
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False,
    layer_scale_init_value=1.0,
)
SLAK = 'SLaK-T, published'


def benchmark_inference(models: Mapping[str, nn.Module], batch: int, size: int, deploy: bool, settings: Settings) -> Report:
    """Time the inference of classifiers.

    Args:
        models: Classifiers by name, as in :func:`classifiers`. ``WIDE`` and ``SLAK`` must be among them, to compute ratios.
        batch: Number of images.
        size: Height and width of the images.
        deploy: Whether to fold branches, norms, and grids of PeLKs into plain convolutions.
        settings: Settings of the measurement.
    """
    models = {name: model.to(settings.device, settings.dtype).eval() for name, model in models.items()}
    for model in models.values():
        if deploy and isinstance(model.backbone, PeLK):
            model.backbone.switch_to_deploy()
    images = torch.randn(batch, 3, size, size, device=settings.device, dtype=settings.dtype)
    calls = {name: torch.inference_mode()(partial(model, images)) for name, model in models.items()}
    times = measure(calls, settings, 'models')
    lines = [
        f'| model | images/s | ms | slowest : fastest | over {WIDE} | over {SLAK} | paper, A100, over SLaK-T |',
        '|---' * 7 + '|',
    ]
    for name, took in times.items():
        ratios = [times[other].median / took.median for other in (WIDE, SLAK)]
        printed = f'{TABLE8[name] / TABLE8["SLaK-T"]:.2f}' if name in TABLE8 else ''
        lines.append(
            f'| {name} | {1000 * batch / took.median:.2f} | {took.median:.1f} | {took.slowest / took.fastest:.2f} '
            f'| {ratios[0]:.3f} | {ratios[1]:.2f} | {printed} |'
        )
    title = f'inference, batch {batch}, {size} px{", deployed" if deploy else ""}'
    results = {name: asdict(value) for name, value in times.items()}
    return Report(f'model_{size}' + ('_deploy' if deploy else ''), title, lines, results, settings)


def benchmark_training(configs: Mapping[str, Config], batch: int, size: int, settings: Settings) -> Report:
    """Time the training steps of segmentors, and measure their peak memory.

    Args:
        configs: Configs of segmentors by name, as in :func:`segmentors`. ``WIDE`` must be among them, to compute ratios.
        batch: Number of images.
        size: Height and width of the images.
        settings: Settings of the measurement.
    """
    memory = {}
    for name, cfg in configs.items():
        print(f'peak memory of {name}', flush=True)
        memory[name] = peak_memory(cfg, batch, size, settings.device, settings.dtype)
    calls = {name: training_step(cfg, batch, size, settings.device, settings.dtype) for name, cfg in configs.items()}
    times = measure(calls, settings, 'training steps')
    lines = [f'| model | ms a step | slowest : fastest | time over {WIDE} | peak memory (MiB) | memory over {WIDE} |']
    lines.append('|---' * 6 + '|')
    for name, took in times.items():
        lines.append(
            f'| {name} | {took.median:.0f} | {took.slowest / took.fastest:.2f} | {took.median / times[WIDE].median:.3f} '
            f'| {memory[name]:.0f} | {memory[name] / memory[WIDE]:.3f} |'
        )
    results = {name: dict(asdict(value), peak_mib=memory[name]) for name, value in times.items()}
    return Report('train', f'UperNet, batch {batch}, {size} px', lines, results, settings)


def classifiers() -> dict[str, nn.Module]:
    """Build the models of Table 8 by name.

    ConvNeXt-T is also built at PeLK's width, which is 1.3 times its own. This wider model is also built in channels_last. SLaK-T is also
    built as its authors run it.
    """
    init_default_scope('mmpretrain')
    models = {}
    for name, config, backbone in (
        ('PeLK-T', 'pelk_t_in1k', {}),
        ('PeLK-101-T', 'ablations/table7_t101_in1k_120e', {}),
        (WIDE, 'pelk_t_in1k', dict(WIDE_CONVNEXT, _delete_=True, out_indices=-1, gap_before_final_norm=True)),
        ('ConvNeXt-T', 'baselines/convnext_t_in1k', {}),
        ('SLaK-T', 'baselines/slak_t_in1k', {}),
        (SLAK, 'baselines/slak_t_in1k', {}),
    ):
        models[name] = MODELS.build(packaged_config(config, backbone).model)
    for module in models[SLAK].modules():
        if isinstance(module, DepthwiseConv2d):
            module.forward = partial(_published, module)
    models[f'{WIDE}, channels_last'] = _ChannelsLast(models[WIDE])
    return models


def _published(conv: DepthwiseConv2d, x: Tensor) -> Tensor:
    """Run SLaK's own code: torch's conv2d in torch's default memory layout."""
    padding = tuple(size // 2 for size in conv.kernel_size)
    return F.conv2d(x.contiguous(), conv.weight, conv.bias, padding=padding, groups=x.shape[1])


class _ChannelsLast(nn.Module):
    """A copy of a classifier that runs in channels_last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        self.backbone = self.model.backbone

    def forward(self, images: Tensor) -> object:
        return self.model(images.contiguous(memory_format=torch.channels_last))


def segmentors() -> dict[str, Config]:
    """Read the configs of UperNet on PeLK-T and on the backbones that it is compared with, by name."""
    return {
        'PeLK-T': packaged_config('upernet_pelk_t_ade20k'),
        'PeLK-101-T': packaged_config('upernet_pelk_t_ade20k', dict(kernel_sizes=(101, 69, 67, 13), center_size=7)),
        WIDE: packaged_config('upernet_pelk_t_ade20k', dict(WIDE_CONVNEXT, _delete_=True)),
        'SLaK-T': packaged_config('baselines/upernet_slak_t_ade20k'),
    }


def training_step(
    cfg: Config, batch: int, size: int, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Prepare a training step of a segmentor or a detector: forward, backward, and AdamW on random images and labels.

    Half-precision types run under autocast. Drop path is off, so that every step does the same amount of work. Weights are random.
    """
    init_default_scope(cfg.default_scope)
    cfg = copy.deepcopy(cfg)
    inner = cfg.model.backbone.get('backbone', cfg.model.backbone)  # of a GrownBackbone
    inner.drop_path_rate = 0.0
    cfg.model.backbone.init_cfg = None  # weights do not matter here
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(batch, 3, size, size, device=device)
    sample = (
        detection_sample(size, device) if cfg.default_scope == 'mmdet' else segmentation_sample(size, model.num_classes, device)
    )
    samples = [sample] * batch

    def step() -> None:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = model.loss(images, samples)
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def segmentation_sample(size: int, num_classes: int, device: torch.device | str) -> BaseDataElement:
    """Return random labels of a square image."""
    from mmseg.structures import SegDataSample

    return SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, num_classes, (1, size, size), device=device)))


def detection_sample(size: int, device: torch.device | str, count: int = 10) -> BaseDataElement:
    """Return random boxes of a square image, with masks that fill them."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks

    corners = torch.rand(count, 2) * size / 2
    boxes = torch.cat([corners, corners + (0.1 + 0.4 * torch.rand(count, 2)) * size], dim=1)
    masks = np.zeros((count, size, size), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    shape = (size, size)
    sample = DetDataSample(
        metainfo=dict(img_shape=shape, ori_shape=shape, batch_input_shape=shape, pad_shape=shape, scale_factor=(1, 1))
    )
    labels = torch.zeros(count, dtype=torch.long, device=device)
    sample.gt_instances = InstanceData(bboxes=boxes.to(device), labels=labels, masks=BitmapMasks(masks, size, size))
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4, device=device))
    return sample


def peak_memory(cfg: Config, batch: int, size: int, device: str, dtype: torch.dtype = torch.float32) -> float:
    """Measure, in a separate process, how much memory the training steps of a segmentor or detector need.

    Returns:
        The memory in MiB. On a CPU, this is the growth of the resident set of the process; on a GPU, the peak that torch reports.
    """
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_peak_memory, (cfg, batch, size, device, dtype))


def print_memory(configs: Sequence[str], batch: int, size: int, device: str, precision: str) -> None:
    """Print a table of the peak memory of a training step of each config, row by row.

    Raises:
        InputError: If a config cannot be read. Nothing has been measured then.
    """
    print(f'\n| training step of {batch} images at {size} px, {precision} | MiB |\n|---|---|')
    for path, cfg in [(path, read_config(path)) for path in configs]:
        print(f'| {path} | {peak_memory(cfg, batch, size, device, PRECISIONS[precision]):.0f} |', flush=True)


def _peak_memory(cfg: Config, batch: int, size: int, device: str, dtype: torch.dtype) -> float:
    before = _peak_resident()
    declare_missing_operators()  # a spawned process does not inherit them
    step = training_step(cfg, batch, size, device, dtype)
    on_gpu = torch.device(device).type == 'cuda'
    step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)  # the first step measures backends and tunes
    step()
    if on_gpu:
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _peak_resident() - before


def _peak_resident() -> float:
    """Return the peak resident set of this process in MiB."""
    # On Linux, getrusage includes the peak of the process that started this one.
    if peak := from_proc('/proc/self/status', 'VmHWM'):
        return peak / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10
