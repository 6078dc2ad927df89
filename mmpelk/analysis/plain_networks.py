"""PeLK and the networks that it is compared with, written with torch only, for measurements without OpenMMLab.

All of them have ConvNeXt-T's depths and 1.3 times its width, and the same blocks, norms, and MLPs. They differ only in the token mixer.
PeLK's positional embedding h is left out, because it adds only a constant per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d
from mmpelk.ops.partial import fork, join

DEPTHS, CHANNELS = (3, 3, 9, 3), (124, 249, 499, 998)
KERNELS = dict.fromkeys(('PeLK-T', 'SLaK-T'), (51, 49, 47, 13)) | {'PeLK-101-T': (101, 69, 67, 13)}
STRIPE = 5


class Branches(nn.Module):
    """The sum of convolutions of the first channels, each with its own BatchNorm. The other channels pass through unchanged.

    Args:
        convs: Depthwise convolutions of ``channels`` channels.
        channels: Number of channels to convolve.
    """

    def __init__(self, convs: Sequence[nn.Module], channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in convs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        inputs, passed = fork(x, self.channels, len(self.convs))
        return join([norm(conv(part)) for conv, norm, part in zip(self.convs, self.norms, inputs, strict=True)], passed)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an (N, C, H, W) map. The result is in channels_last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Token mixer, LayerNorm, MLP, and layer scale, added to the input."""

    def __init__(self, channels: int, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels, eps=1e-6), nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H, W)."""
        mixed = self.mixer(x).permute(0, 2, 3, 1)
        return (x.permute(0, 2, 3, 1) + self.mlp(mixed) * self.gamma).permute(0, 3, 1, 2)


class Backbone(nn.Module):
    """ConvNeXt's layout in channels_last. It returns the four normalized outputs of the stages.

    Args:
        mixer: Builds a token mixer from the index of the stage, starting at 0, and its number of channels.
        depths, channels: Blocks and channels of each stage.
    """

    def __init__(
        self, mixer: Callable[[int, int], nn.Module], depths: Sequence[int] = DEPTHS, channels: Sequence[int] = CHANNELS
    ) -> None:
        super().__init__()
        self.downsample, self.stages, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, (depth, width) in enumerate(zip(depths, channels, strict=True)):
            if stage == 0:
                layers = nn.Conv2d(3, width, 4, stride=4), LayerNorm2d(width, eps=1e-6)
            else:
                before = channels[stage - 1]
                layers = LayerNorm2d(before, eps=1e-6), nn.Conv2d(before, width, 2, stride=2)
            self.downsample.append(nn.Sequential(*layers))
            self.stages.append(nn.Sequential(*(Block(width, mixer(stage, width)) for _ in range(depth))))
            self.norms.append(LayerNorm2d(width, eps=1e-6))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to four maps, at 1/4 to 1/32 of the height and width."""
        x, outputs = images.contiguous(memory_format=torch.channels_last), []
        for downsample, stage, norm in zip(self.downsample, self.stages, self.norms, strict=True):
            x = stage(downsample(x))
            outputs.append(norm(x))
        return outputs


class Classifier(nn.Module):
    """A backbone with a linear layer on the average of its last output, for 1000 classes."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.norms[-1].normalized_shape[0], 1000)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 1000)."""
        return self.head(self.backbone(images)[-1].mean((2, 3)))


class LightSegmentor(nn.Module):
    """A backbone with a light head: 1x1 convolutions of the outputs, added at a quarter of the image's size, for 150 classes."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(norm.normalized_shape[0], 150, 1) for norm in backbone.norms)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to scores, (N, 150, H / 4, W / 4)."""
        scores = [head(output) for head, output in zip(self.heads, self.backbone(images), strict=True)]
        size = scores[0].shape[-2:]
        return sum(F.interpolate(score, size, mode='bilinear', align_corners=False) for score in scores)


def plain_backbone(name: str, training: bool, depths: Sequence[int] = DEPTHS, channels: Sequence[int] = CHANNELS) -> Backbone:
    """Build a backbone.

    Args:
        name: 'PeLK-T', 'PeLK-101-T', 'ConvNeXt-T x 1.3', 'SLaK-T', or 'SLaK-T, published', which uses torch's convolution.
        training: Whether the branches and their BatchNorms are separate. Otherwise they are folded: PeLK has one convolution.
        depths, channels: Blocks and channels of each stage.
    """

    def convnext(stage: int, width: int) -> nn.Module:
        return nn.Conv2d(width, width, 7, padding=3, groups=width)

    def pelk(stage: int, width: int) -> nn.Module:
        convolved, kernel_size = int(3 / 8 * width), KERNELS[name][stage]
        center = 7 if name == 'PeLK-101-T' else 5
        if not training:
            return PeripheralConv2d(convolved, kernel_size, center, partial=True)
        large = PeripheralConv2d(convolved, kernel_size, center, bias=False)
        return Branches([large, DepthwiseConv2d(convolved, 5, bias=False)], convolved)

    def slak(stage: int, width: int) -> nn.Module:
        k, small = KERNELS['SLaK-T'][stage], STRIPE
        sizes = (k, small), (small, k), (small, small)
        if name == 'SLaK-T':
            return Branches([DepthwiseConv2d(width, size, bias=False) for size in sizes], width)
        padding = ((rows // 2, columns // 2) for rows, columns in sizes)
        convs = (nn.Conv2d(width, width, s, padding=p, groups=width, bias=False) for s, p in zip(sizes, padding, strict=True))
        return Branches([nn.Sequential(_DefaultLayout(), conv) for conv in convs], width)

    return Backbone(pelk if name.startswith('PeLK') else slak if name.startswith('SLaK') else convnext, depths, channels)


class _DefaultLayout(nn.Module):
    """Copy a map to torch's default layout, in which SLaK's authors run their convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.contiguous()
