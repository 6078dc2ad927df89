"""The effective receptive field (Fig. 4), by the method of RepLKNet (arXiv 2203.06717, section 4.4) and SLaK."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmpelk.apis.images import read_image

# The shares of the total contribution that RepLKNet's and SLaK's tables state.
SHARES = (0.2, 0.3, 0.5, 0.99)
CENTRE = (0.5, 0.5)


def contribution_map(
    backbone: Callable[[Tensor], Sequence[Tensor]], images: Iterable[Tensor], at: tuple[float, float] = CENTRE
) -> NDArray[np.float64]:
    """How much each input pixel contributes to one position of the last feature map, its centre by default.

    The gradient of the position's positive activations, summed over channels, with respect to the image; its positive part, summed
    over colours and averaged over the images.

    Args:
        backbone: In eval mode; returns a tuple whose last entry is an (N, C, h, w) map.
        images: Normalised (1, 3, H, W) images of one size.
        at: The position, (y, x), as shares of height and width.

    Returns:
        (H, W).
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
    contribution: NDArray[np.float64], shares: Sequence[float] = SHARES, at: tuple[float, float] = CENTRE
) -> dict[float, float]:
    """The area of the smallest square around a position that holds each share of the contribution, over the area of the map.

    Args:
        contribution: (H, W), H = W.
        shares: In (0, 1).
        at: The position, (y, x), as shares of height and width.
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
    """The contribution as a (size, size, 3) RGB picture, on RepLKNet's scale: log10(x + 1), brightest at 1."""
    logs = np.log10(contribution / max(contribution.max(), 1e-30) * 1e3 + 1)
    scaled = (255 * logs / max(logs.max(), 1e-30)).astype(np.uint8)
    scaled = cv2.resize(scaled, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[..., ::-1]


def load_images(
    images: Iterable[str | Path | NDArray[np.uint8]], size: int, mean: Sequence[float], std: Sequence[float]
) -> Iterable[Tensor]:
    """Images of one size, as RepLKNet prepares them: resized to size x size, RGB, normalised; (1, 3, size, size) each.

    Args:
        images: Files, or (H, W, 3) RGB arrays.
        size: In pixels.
        mean, std: Of each RGB channel, on the scale of 0 to 255.
    """
    for image in images:
        if not isinstance(image, np.ndarray):
            image = mmcv.bgr2rgb(read_image(image))
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        yield torch.from_numpy((image - np.float32(mean)) / np.float32(std)).permute(2, 0, 1)[None]
