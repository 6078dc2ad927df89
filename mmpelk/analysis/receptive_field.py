"""Compute and draw the effective receptive field (Fig. 4) with the method of RepLKNet (arXiv 2203.06717, section 4.4) and SLaK."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.utils import track_iter_progress
from numpy.typing import NDArray
from torch import Tensor, nn

from mmpelk.apis.images import read_image
from mmpelk.apis.models import load_backbone
from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_together

# The shares of the total contribution in the tables of RepLKNet and SLaK.
SHARES = (0.2, 0.3, 0.5, 0.99)
CENTER = (0.5, 0.5)
# Before the logarithm, heat maps scale the contributions to this maximum.
MAX_CONTRIBUTION = 1e3


def without_pooling(backbone: nn.Module) -> Callable[[Tensor], Sequence[Tensor]]:
    """Return a function that runs a backbone and returns feature maps, even if the backbone pools them for a classifier.

    The backbone is unchanged between calls.
    """

    def forward(x: Tensor) -> Sequence[Tensor]:
        pools = getattr(backbone, 'gap_before_final_norm', False)
        backbone.gap_before_final_norm = False
        try:
            return backbone(x)
        finally:
            backbone.gap_before_final_norm = pools

    return forward


def contribution_map(
    backbone: Callable[[Tensor], Sequence[Tensor]], images: Iterable[Tensor], at: tuple[float, float] = CENTER
) -> NDArray[np.float64]:
    """Compute how much each input pixel contributes to one position of the last feature map.

    This is the gradient of the position's positive activations, summed over channels, with respect to the image. The positive part of
    the gradient is summed over colors and averaged over the images.

    Args:
        backbone: Backbone in eval mode. It returns a sequence whose last entry is an (N, C, h, w) map.
        images: Normalized (1, 3, H, W) images of one size.
        at: (y, x) of the position, as fractions of height and width. Defaults to the center.

    Returns:
        (H, W) array.
    """
    total: NDArray[np.float64] | None = None
    count = 0
    for image in images:
        image = image.clone().requires_grad_(True)
        features = backbone(image)[-1]
        row, column = (int(share * length) for share, length in zip(at, features.shape[2:], strict=True))
        (gradient,) = torch.autograd.grad(features[:, :, row, column].relu().sum(), image)
        contribution = gradient.relu().sum((0, 1)).double().cpu().numpy()
        total = contribution if total is None else total + contribution
        count += 1
    if total is None:
        raise ValueError('contribution_map needs at least one image')
    return total / count


def area_ratios(
    contribution: NDArray[np.float64], shares: Sequence[float] = SHARES, at: tuple[float, float] = CENTER
) -> dict[float, float]:
    """Compute the area of the smallest square around a position with each share of the contribution, divided by the area of the map.

    Args:
        contribution: (H, W) array with H = W.
        shares: Shares of the total contribution, in (0, 1).
        at: (y, x) of the position, as fractions of height and width.
    """
    size = contribution.shape[0]
    row, column = (int(share * size) for share in at)
    ratios = {}
    for share in shares:
        for radius in range(size):
            rows, columns = (slice(max(0, middle - radius), middle + radius + 1) for middle in (row, column))
            if contribution[rows, columns].sum() > share * contribution.sum():
                break
        ratios[share] = min(1.0, ((2 * radius + 1) / size) ** 2)
    return ratios


def heat_map(contribution: NDArray[np.float64], size: int = 512) -> NDArray[np.uint8]:
    """Draw a contribution map as a (size, size, 3) RGB picture. As in RepLKNet, the scale is log10(x + 1)."""
    logs = np.log10(contribution / max(contribution.max(), 1e-30) * MAX_CONTRIBUTION + 1)
    scaled = (255 * logs / max(logs.max(), 1e-30)).astype(np.uint8)
    scaled = cv2.resize(scaled, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def heat_map_on_image(
    contribution: NDArray[np.float64], image: NDArray[np.uint8], at: tuple[float, float], size: int = 512
) -> NDArray[np.uint8]:
    """Draw a contribution map over its image, with a cross at the position.

    Args:
        contribution: (H, W) array of the image resized to a square.
        image: (H, W, 3) RGB image.
        at: (y, x) of the position, as fractions of height and width.
        size: Length of the longer side of the picture in pixels.

    Returns:
        RGB picture with the aspect ratio of the image.
    """
    factor = size / max(image.shape[:2])
    width, height = (round(factor * length) for length in image.shape[1::-1])
    background = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    field = cv2.resize(heat_map(contribution, size), (width, height), interpolation=cv2.INTER_AREA)
    picture = cv2.addWeighted(background, 0.35, field, 0.65, 0)
    cv2.drawMarker(picture, (int(at[1] * width), int(at[0] * height)), (255, 60, 60), cv2.MARKER_CROSS, 24, 2)
    return picture


def load_images(
    images: Iterable[str | Path | NDArray[np.uint8]], size: int, mean: Sequence[float], std: Sequence[float]
) -> Iterable[Tensor]:
    """Prepare images as RepLKNet does: RGB, resized to a square, and normalized.

    Args:
        images: Files, or (H, W, 3) RGB arrays.
        size: Height and width in pixels.
        mean, std: Values for each RGB channel, on the scale of 0 to 255.

    Yields:
        (1, 3, size, size) tensors.
    """
    for image in images:
        if not isinstance(image, np.ndarray):
            image = mmcv.bgr2rgb(read_image(image))
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        yield torch.from_numpy((image - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)[None]


def measure_receptive_field(
    cfg: Config, checkpoint: str | None, images: Sequence[Path | np.ndarray], size: int, out: Path
) -> dict[float, float]:
    """Measure the effective receptive field of a config's backbone, and write its heat map and area ratios.

    Args:
        cfg: The config, whose data preprocessor has the mean and the standard deviation of the images.
        checkpoint: The checkpoint file, or None for the initial weights.
        images: Image files, or (H, W, 3) uint8 RGB arrays.
        size: Height and width to which the images are resized.
        out: The PNG to write. The ratios are written beside it, as JSON.

    Returns:
        The area ratio of each share (:func:`area_ratios`).

    Raises:
        InputError: If the backbone cannot be built or loaded, or the config has no normalization of three channels.
    """
    backbone = load_backbone(cfg, checkpoint).to(get_device())
    backbone.eval()  # in a line of its own, because eval() of mmpretrain's backbones returns None
    norm = cfg.model.get('data_preprocessor') or {}
    for name in ('mean', 'std'):
        if not isinstance(norm.get(name), (list, tuple)) or len(norm[name]) != 3:
            raise InputError(
                f'config {cfg.filename} has {norm.get(name)!r} as model.data_preprocessor.{name}; expected three numbers'
            )
    loaded = (image.to(get_device()) for image in load_images(track_iter_progress(images), size, norm.mean, norm.std))
    contribution = contribution_map(without_pooling(backbone), loaded)
    ratios = area_ratios(contribution)
    picture = cv2.imencode('.png', mmcv.rgb2bgr(heat_map(contribution)))[1].tobytes()
    text = json.dumps({str(share): ratio for share, ratio in ratios.items()})
    write_together({out: picture, out.with_suffix('.json'): text.encode()})
    return ratios
