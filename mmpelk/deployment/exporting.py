"""Export models as torch.export programs of torch's own operators, including the normalization of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from mmpelk.apis.images import MAX_PIXELS
from mmpelk.apis.models import normalization
from mmpelk.models.pelk import MIN_INPUT
from mmpelk.ops import PeripheralConv2d
from mmpelk.ops.backends import dense
from mmpelk.utils.errors import InputError
from mmpelk.utils.torch_compat import TORCH

PARTS = ('model', 'neck', 'backbone')
# With dynamic sizes, torch.export treats a feature map of size 1 as a separate case.
MIN_FREE = 2 * MIN_INPUT


class Exportable(nn.Module):
    """The part of a model that is exported. It maps images to logits or feature maps.

    Args:
        model: A classifier of mmpretrain, a segmentor of mmseg, or a detector of mmdet, in eval mode.
        part: 'model' for the logits, 'neck' or 'backbone' for feature maps. Detectors cannot be exported as 'model', because they
            contain region proposals and non-maximum suppression, whose sizes depend on the image.

    Raises:
        InputError: If the model does not have the part, its logits are not a fixed graph, or its preprocessor does more than
            normalize.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        if part not in PARTS:
            raise InputError(f'part must be one of {PARTS}, got {part!r}')
        if part == 'model' and task(model) == 'detection':
            raise InputError(
                "part 'model' of a detector cannot be exported, because region proposals and non-maximum suppression are not a fixed "
                "graph; export part 'neck' or 'backbone', or use MMDeploy for the whole detector"
            )
        if part == 'neck' and getattr(model, 'neck', None) is None:
            raise InputError(f"{type(model).__name__} has no neck; export part 'backbone'")
        self.model, self.part = model, part
        for name, value in zip(('mean', 'std'), normalization(model), strict=True):
            self.register_buffer(name, value.clone())
        # The flag has these names in mmpretrain, mmengine, and mmseg 1.2. If it is not set, the model takes BGR.
        flags = [
            getattr(model.data_preprocessor, name, False) for name in ('to_rgb', '_channel_conversion', 'channel_conversion')
        ]
        self.takes_rgb = any(flags)
        self._check_normalization()

    @torch.no_grad()
    def _check_normalization(self) -> None:
        """Raise InputError unless the preprocessor computes the same as this module on random pixels."""
        pixels = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        prepared = self.model.data_preprocessor(dict(inputs=[pixels], data_samples=None), False)['inputs']
        if not torch.allclose(self._normalize(pixels.flip(0)[None].float()), prepared[0].cpu(), atol=1e-4):
            raise InputError(
                f'{type(self.model.data_preprocessor).__name__} does more than normalize; only normalization can be exported'
            )

    def _normalize(self, images: Tensor) -> Tensor:
        return ((images if self.takes_rgb else images.flip(1)) - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute logits or feature maps.

        Args:
            images: (N, 3, H, W), RGB, from 0 to 255.

        Returns:
            Logits of shape (N, classes) for classifiers and (N, classes, H, W) for segmentors. For 'neck' and 'backbone', one feature
            map per output.

        Raises:
            InputError: If the head does not return a single tensor of logits.
        """
        x = self._normalize(images)
        if self.part == 'backbone':
            return self.model.backbone(x)
        if self.part == 'neck':
            return self.model.neck(self.model.backbone(x))
        logits = self.model(x, mode='tensor')
        if not isinstance(logits, Tensor) or logits.ndim not in (2, 4):
            raise InputError(
                f"the head of {type(self.model).__name__} does not return a single tensor of logits; export part 'neck' or 'backbone'"
            )
        if logits.ndim == 2:
            return logits
        return F.interpolate(logits, size=images.shape[-2:], mode='bilinear', align_corners=self.model.align_corners)


def task(model: nn.Module) -> str:
    """Return the task of a model: 'segmentation', 'classification', or 'detection'."""
    bases = {base.__name__ for base in type(model).__mro__}  # isinstance would import all three frameworks
    if 'BaseSegmentor' in bases:
        return 'segmentation'
    return 'classification' if 'BaseClassifier' in bases else 'detection'


@torch.no_grad()
def export(module: Exportable, batch: int, size: Sequence[int], dynamic: bool = False) -> ExportedProgram:
    """Trace a model into a program of torch's own operators, which runs without mmpelk.

    Args:
        module: The model in eval mode, with a folded backbone (:func:`mmpelk.deployment.fold`).
        batch: Number of images.
        size: Height and width.
        dynamic: Whether the program takes any number of images of any size from 64x64. ``batch`` and ``size`` are then examples.

    Raises:
        InputError: If the size is too small, a kernel is still on a sharing grid, or torch is older than 2.6, because its ONNX exporter
            for programs is incomplete.
    """
    if TORCH < (2, 6):
        raise InputError(f'exporting needs torch 2.6 or newer, got torch {torch.__version__}')
    if any(isinstance(part, PeripheralConv2d) for part in module.modules()):
        raise InputError('fold the backbone before exporting it (mmpelk.deployment.fold)')
    check_size(batch, size, dynamic)
    shapes = None
    if dynamic:
        batch = max(2, batch)  # torch.export would treat a batch size of 1 as a constant
        from torch.export import Dim  # torch 2.1 does not have it

        shapes = ({0: Dim('batch'), 2: Dim('height', min=MIN_FREE), 3: Dim('width', min=MIN_FREE)},)
    program = torch.export.export(module, (torch.zeros(batch, 3, *size),), dynamic_shapes=shapes)
    return program.run_decompositions(
        {
            torch.ops.mmpelk.depthwise_conv2d.default: _plain_convolution,
            torch.ops.aten.adaptive_avg_pool2d.default: _pool_by_products,
        }
    )


def check_size(batch: int, size: Sequence[int], dynamic: bool) -> None:
    """Raise InputError unless there is at least one image, it is large enough, and all images together have at most ``MAX_PIXELS``."""
    min_size = MIN_FREE if dynamic else MIN_INPUT
    if batch >= 1 and len(size) == 2 and batch * math.prod(size) > MAX_PIXELS:
        raise InputError(
            f'cannot export for {batch} images of {"x".join(map(str, size))}; expected at most {MAX_PIXELS:,} pixels in all'
        )
    if batch < 1 or len(size) != 2 or min(size) < min_size:
        raise InputError(
            f'cannot export for {batch} images of {"x".join(map(str, size))}; expected at least 1 image of {min_size}x{min_size}'
            f'{" with dynamic sizes" if dynamic else ""}'
        )


def _plain_convolution(input, weight, bias, rows, columns, passed, backend):
    if not passed:
        return dense.forward(input, weight, bias, rows, columns)
    convolved = dense.forward(input[:, :-passed], weight, bias, rows, columns)
    return torch.cat((convolved, input[:, -passed:]), dim=1)


def _pool_by_products(x: Tensor, output_size: Sequence[int]) -> Tensor:
    """Compute adaptive average pooling as two matrix products, because ONNX has no pooling with windows that depend on the size."""

    def means(length: int, bins: int) -> Tensor:
        index, position = torch.arange(bins)[:, None], torch.arange(length)
        within = (position >= index * length // bins) & (position < ((index + 1) * length + bins - 1) // bins)
        within = within.to(x.dtype)
        return within / within.sum(1, keepdim=True)

    return means(x.shape[2], output_size[0]) @ x @ means(x.shape[3], output_size[1]).T
