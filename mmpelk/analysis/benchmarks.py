"""What tools/benchmark.py times: the operator, models, training steps, each beside what it is compared with."""

from __future__ import annotations

import copy
import multiprocessing
import resource
import sys
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmpelk.engine.config import read_config
from mmpelk.ops import DepthwiseConv2d, SharingGrid, available_backends, peripheral_conv2d
from mmpelk.ops.cells import crop

# In the repository, or in a wheel.
CONFIGS = next(filter(Path.is_dir, (Path(__file__).parents[2] / 'configs', Path(__file__).parents[1] / '.mim/configs')))
# (N, C, height = width, K): PeLK-T's stages at 224 and 512 pixels, one image and eight.
SHAPES = (
    (1, 46, 56, 51), (1, 46, 128, 51), (1, 46, 128, 101), (1, 93, 28, 49),
    (1, 187, 14, 47), (1, 187, 32, 47), (8, 46, 56, 51), (8, 187, 14, 47),
)  # fmt: skip
# On a GPU: a training batch, and as first shapes the largest maps, by two kernel sizes.
GPU_SHAPES = ((16, 46, 128, 51), (16, 46, 128, 101), *((16, *shape[1:]) for shape in SHAPES[:6] if shape[2] != 128))
STRIPE = 5
WIDE_CONVNEXT = dict(
    type='mmpretrain.ConvNeXt',
    arch=dict(depths=(3, 3, 9, 3), channels=(124, 249, 499, 998)),
    out_indices=(0, 1, 2, 3),
    gap_before_final_norm=False,
    layer_scale_init_value=1.0,
)


def operator_calls(
    shape: tuple[int, int, int, int], backward: bool, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> dict[str, Callable[[], object]]:
    """The peripheral convolution by every backend and in both layouts, and what other networks pay at the same width, 8/3 C channels:
    ConvNeXt's 7x7 and SLaK's stripes. 'copy' reads the map and writes it: the floor that memory sets. RepLKNet's implicit GEMM takes
    part where its build is installed.

    On a GPU each call takes the next of several inputs, together larger than its cache.

    Args:
        shape: (N, C, H = W, K).
        backward: Whether to run the backward pass too, for input and weight.
        device: Where.
        dtype: Of input and weight.
    """
    n, c, size, k = shape
    grid = _grid(k)
    wide = -(-8 * c // 3)

    def case(channels: int, kernels: list[tuple[int, int]], run: Callable, last: bool = False) -> Callable[[], object]:
        layout = torch.channels_last if last else torch.contiguous_format
        generator = torch.Generator().manual_seed(0)
        x, up = (torch.randn(n, channels, size, size, generator=generator) for _ in range(2))
        weights = [torch.randn(channels, 1, *kernel, generator=generator).to(device, dtype) for kernel in kernels]
        copies = copies_beyond_cache(x.numel() * dtype.itemsize, device)
        maps = cycle([[t.to(device, dtype, memory_format=layout, copy=True) for t in (x, up)] for _ in range(copies)])

        def forward() -> object:
            return run(next(maps)[0], *weights)

        def forward_and_backward() -> object:
            x, up = next(maps)
            leaves = [x.requires_grad_(), *(weight.requires_grad_() for weight in weights)]
            return torch.autograd.grad(run(x, *weights), leaves, up)

        return forward_and_backward if backward else torch.no_grad()(forward)

    def depthwise(x: Tensor, *weights: Tensor) -> Tensor:
        return sum(F.conv2d(x, w, padding=(w.shape[2] // 2, w.shape[3] // 2), groups=x.shape[1]) for w in weights)

    small = [(grid.weight_size,) * 2]
    calls = {'auto': case(c, small, partial(peripheral_conv2d, grid=grid))}
    calls['auto, channels_last'] = case(c, small, partial(peripheral_conv2d, grid=grid), last=True)
    for backend in available_backends(device, dtype):
        if backend != 'dense':
            calls[backend] = case(c, small, partial(peripheral_conv2d, grid=grid, backend=backend))
    if gemm := implicit_gemm(c, k, device, dtype):
        calls['implicit GEMM'] = case(c, [(k, k)], gemm)
    calls['F.conv2d'] = case(c, [(k, k)], depthwise)
    calls['7x7, 8/3 C'] = case(wide, [(7, 7)], depthwise)
    calls['7x7, 8/3 C, channels_last'] = case(wide, [(7, 7)], depthwise, last=True)
    calls['stripes, 8/3 C'] = case(wide, [(k, min(k, STRIPE)), (min(k, STRIPE), k)], depthwise)
    calls['copy'] = case(c, [], lambda x: x * 1.0)
    return calls


def copies_beyond_cache(size: int, device: torch.device | str) -> int:
    """How many inputs of ``size`` bytes a GPU's cache cannot hold; 1 on a CPU."""
    device = torch.device(device)
    return 1 if device.type != 'cuda' else 2 + 2 * torch.cuda.get_device_properties(device).L2_cache_size // size


def implicit_gemm(
    channels: int, kernel_size: int, device: torch.device | str, dtype: torch.dtype
) -> Callable[[Tensor, Tensor], Tensor] | None:
    """RepLKNet's CUTLASS convolution, or None where it is not installed or lacks the type."""
    if torch.device(device).type != 'cuda' or dtype == torch.bfloat16:
        return None
    try:
        from depthwise_conv2d_implicit_gemm import DepthWiseConv2dImplicitGEMM
    except ImportError:
        return None
    conv = DepthWiseConv2dImplicitGEMM(channels, kernel_size).to(device, dtype)
    return lambda x, weight: torch.func.functional_call(conv, dict(weight=weight), (x,))


def operator_work(shape: tuple[int, int, int, int], backward: bool) -> dict[str, float]:
    """What an evaluation has to do at least, the backward pass included on request.

    Returns:
        ``values``: numbers of the maps read and written; ``dense``, ``structured``: multiply-adds of all K x K taps, and of k' x (k' + 1)
        taps on sums (docs/operator.md).
    """
    n, c, size, k = shape
    cells = crop(_grid(k).cells, size)[0]
    positions, passes = n * c * size * size, 3 if backward else 1
    return dict(
        values=positions * (5 if backward else 2),
        dense=passes * positions * sum(cells) ** 2,
        structured=passes * positions * len(cells) * (len(cells) + 1),
    )


def _grid(kernel_size: int) -> SharingGrid:
    return SharingGrid.peripheral(kernel_size, min(kernel_size, 7 if kernel_size > 51 else 5))


def classifiers() -> dict[str, nn.Module]:
    """Table 8's models, ConvNeXt-T at PeLK's width, 1.3, also in channels_last, and SLaK-T also as its authors run it."""
    init_default_scope('mmpretrain')
    models = {}
    for name, path, backbone in (
        ('PeLK-T', 'pelk_t_in1k', {}),
        ('PeLK-101-T', 'ablations/table7_t101_in1k_120e', {}),
        ('ConvNeXt-T x 1.3', 'pelk_t_in1k', dict(WIDE_CONVNEXT, _delete_=True, out_indices=-1, gap_before_final_norm=True)),
        ('ConvNeXt-T', 'baselines/convnext_t_in1k', {}),
        ('SLaK-T', 'baselines/slak_t_in1k', {}),
        ('SLaK-T, published', 'baselines/slak_t_in1k', {}),
    ):
        models[name] = MODELS.build(_config(path, backbone).model)
    for module in models['SLaK-T, published'].modules():
        if isinstance(module, DepthwiseConv2d):
            module.forward = partial(_published, module)
    models['ConvNeXt-T x 1.3, channels_last'] = _ChannelsLast(models['ConvNeXt-T x 1.3'])
    return models


def _published(conv: DepthwiseConv2d, x: Tensor) -> Tensor:
    """SLaK's own code: torch's conv2d in torch's default layout."""
    padding = tuple(size // 2 for size in conv.kernel_size)
    return F.conv2d(x.contiguous(), conv.weight, conv.bias, padding=padding, groups=x.shape[1])


class _ChannelsLast(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).to(memory_format=torch.channels_last)
        self.backbone = self.model.backbone

    def forward(self, images: Tensor) -> object:
        return self.model(images.contiguous(memory_format=torch.channels_last))


def segmentors() -> dict[str, Config]:
    """UperNet on PeLK-T and on what it is compared with."""
    return {
        'PeLK-T': _config('upernet_pelk_t_ade20k', {}),
        'PeLK-101-T': _config('upernet_pelk_t_ade20k', dict(kernel_sizes=(101, 69, 67, 13), center_size=7)),
        'ConvNeXt-T x 1.3': _config('upernet_pelk_t_ade20k', dict(WIDE_CONVNEXT, _delete_=True)),
        'SLaK-T': _config('baselines/upernet_slak_t_ade20k', {}),
    }


def training_step(
    cfg: Config, batch: int, size: int, device: torch.device | str, dtype: torch.dtype = torch.float32
) -> Callable[[], None]:
    """Forward, backward and AdamW on random images and labels, under autocast for a half type."""
    from mmseg.structures import SegDataSample

    init_default_scope('mmseg')
    cfg.model.backbone.drop_path_rate = 0.0  # or every step would do another amount of work
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, model.num_classes, (1, size, size), device=device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=labels)) for _ in range(batch)]

    def step() -> None:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            losses = model.loss(images, samples)
        sum(value for name, value in losses.items() if 'loss' in name).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def peak_memory(name: str, batch: int, size: int, device: str, dtype: torch.dtype = torch.float32) -> float:
    """MiB that a training step of a segmentor adds to what the process had: of its resident set on a CPU, as torch counts it on a GPU.

    Measured in a process of its own."""
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        return pool.apply(_peak_memory, (name, batch, size, device, dtype))


def _peak_memory(name: str, batch: int, size: int, device: str, dtype: torch.dtype) -> float:
    cfg = segmentors()[name]
    before = _resident()
    step = training_step(cfg, batch, size, device, dtype)
    on_gpu = torch.device(device).type == 'cuda'
    step()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)  # the first step measures backends and tunes
    step()
    if on_gpu:
        return torch.cuda.max_memory_allocated(device) / 2**20
    return _resident() - before


def _resident() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 2**10


def _config(path: str, backbone: dict) -> Config:
    return read_config(str(CONFIGS / f'{path}.py'), dict(model=dict(backbone=backbone)) if backbone else None)
