"""Draw the comparison on keyed rows: accuracy over kernel size and distance, predictions, and effective receptive fields."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from mmpelk.apis import load_model
from mmpelk.apis.images import read_image
from mmpelk.datasets.keyed_rows import COLOR_PALETTE, KEY

from .plots import save_figure
from .reach_comparison import PARTS, Run, checkpoint, found, run_config
from .receptive_field import contribution_map, heat_map_on_image, load_images


class Scene(NamedTuple):
    """A validation scene.

    Attributes:
        image: (H, W, 3) RGB.
        labels: (H, W), 0 where there is no label, and 1 to 4 on the glyphs.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]

    def far_glyph(self) -> tuple[int, int]:
        """Return (row, column) of the labeled pixel that is farthest to the right, and highest among several."""
        columns, rows = np.nonzero(self.labels.T)
        last = columns.argmax()
        return int(rows[last]), int(columns[last])


def draw_comparison(
    results: Mapping[str, dict], sizes: Sequence[int], variants: Sequence[str], seeds: int, iterations: int, root: Path
) -> None:
    """Draw all pictures of a comparison into its folder. Predictions and fields are those of seed 0 on images of the first size.

    Args:
        results: Results of :func:`mmpelk.analysis.reach_comparison.train` by run.
        sizes, variants, seeds: The runs, see :func:`mmpelk.analysis.reach_comparison.runs`.
        iterations: Number of iterations.
        root: Folder of the comparison.
    """
    draw_over_kernel_size(results, sizes, variants, seeds, root / 'kernel_size.png')
    draw_over_distance(results, sizes, variants, seeds, root / 'distance.png')
    models = {}
    for variant in variants:
        run = Run(sizes[0], variant, 0)
        models[variant] = load_model(run_config(run, iterations, root), checkpoint(run, iterations, root))
    scenes = read_scenes(root / 'data' / str(sizes[0]), 3)
    draw_predictions(models, scenes, root / 'predictions.png')
    draw_receptive_fields(models, scenes, root / 'receptive_fields.png')


def read_scenes(root: Path, count: int) -> list[Scene]:
    """Read the first validation scenes of keyed rows."""
    images = sorted((root / 'images/validation').iterdir())[:count]
    annotations = [root / f'annotations/validation/{path.stem}.png' for path in images]
    return [
        Scene(mmcv.bgr2rgb(read_image(image)), mmcv.imread(labels, flag='unchanged'))
        for image, labels in zip(images, annotations, strict=True)
    ]


def draw_over_kernel_size(
    results: Mapping[str, dict], sizes: Sequence[int], variants: Sequence[str], seeds: int, path: Path
) -> None:
    """Draw the accuracy in the right half over the kernel size: means, and standard deviations as error bars.

    Args:
        results: Results of :func:`mmpelk.analysis.reach_comparison.train` by run.
        sizes, variants, seeds: The runs. Missing ones are left out.
        path: PNG to write.
    """
    figure = Figure(figsize=(4 * len(sizes), 3.6), layout='constrained')
    all_axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(all_axes, sizes, strict=True):
        points: dict[str, list[tuple[int, float, float]]] = {}
        for variant in variants:
            values = [result['right'] for result in found(results, size, variant, seeds)]
            form, kernel = variant.rsplit(' ', 1)
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                points.setdefault(form, []).append((int(kernel), statistics.mean(values), spread))
        for form, curve in points.items():
            kernels, means, spreads = zip(*curve, strict=True)
            axes.errorbar(kernels, means, spreads, label=form, marker='o', markersize=4, capsize=3)
        axes.set(xlabel='kernel size of the first stage', title=f'{size} px')
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel('accuracy in the right half (%)')
    all_axes[-1].legend(fontsize=8)
    save_figure(figure, path, dpi=110)


def draw_over_distance(
    results: Mapping[str, dict], sizes: Sequence[int], variants: Sequence[str], seeds: int, path: Path
) -> None:
    """Draw the mean accuracy over the distance from the left edge. The arguments are those of :func:`draw_over_kernel_size`."""
    figure = Figure(figsize=(4 * len(sizes), 3.6), layout='constrained')
    all_axes = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(all_axes, sizes, strict=True):
        middles = (np.arange(PARTS) + 0.5) * size / PARTS
        for variant in variants:
            existing = found(results, size, variant, seeds)
            if existing:
                parts = np.array([result['parts'] for result in existing], float)  # None becomes NaN
                axes.plot(middles, parts.mean(0), marker='o', markersize=3, label=variant)
        axes.axhline(100 / len(COLOR_PALETTE), color='gray', linestyle=':', linewidth=1)
        axes.set(xlabel='distance from the left edge (px)', title=f'{size} px')
        axes.grid(alpha=0.3)
    all_axes[0].set_ylabel('accuracy (%); dotted: chance')
    all_axes[-1].legend(fontsize=7)
    save_figure(figure, path, dpi=110)


def draw_predictions(models: Mapping[str, nn.Module], scenes: Sequence[Scene], path: Path) -> None:
    """Draw scenes, and their glyphs in the true and in the predicted colors.

    Args:
        models: Segmentors in eval mode by name.
        scenes: The scenes.
        path: PNG to write.
    """
    rows = []
    for scene in scenes:
        predictions = [predict(model, scene.image) + 1 for model in models.values()]
        rows.append([scene.image, *(paint(scene, labels) for labels in (scene.labels, *predictions))])
    _draw_sheet(['image', 'truth', *models], rows, path)


def draw_receptive_fields(models: Mapping[str, nn.Module], scenes: Sequence[Scene], path: Path) -> None:
    """Draw how much each pixel of a scene contributes to the logits at its far glyph, which a cross marks.

    Args:
        models: Segmentors in eval mode by name.
        scenes: The scenes.
        path: PNG to write.
    """
    rows = []
    for scene in scenes:
        at = tuple((index + 0.5) / length for index, length in zip(scene.far_glyph(), scene.labels.shape, strict=True))
        rows.append([receptive_field(model, scene.image, at) for model in models.values()])
    _draw_sheet(list(models), rows, path)


def predict(model: nn.Module, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (H, W) map of the predicted classes of an (H, W, 3) RGB image."""
    with torch.no_grad():
        (sample,) = model.predict(_normalized(model, image))
    return sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)


def receptive_field(model: nn.Module, image: NDArray[np.uint8], at: tuple[float, float]) -> NDArray[np.uint8]:
    """Draw the contributions of the pixels of a square RGB image to the logits at (y, x), given as fractions of height and width."""

    def logits(x: Tensor) -> list[Tensor]:
        return [model.decode_head(model.extract_feat(x))]

    return heat_map_on_image(contribution_map(logits, [_normalized(model, image)], at), image, at, 256)


def _normalized(model: nn.Module, image: NDArray[np.uint8]) -> Tensor:
    """Return a square RGB image as the normalized (1, 3, H, W) input of a segmentor."""
    preprocessor = model.data_preprocessor
    (tensor,) = load_images([image], len(image), preprocessor.mean.flatten().tolist(), preprocessor.std.flatten().tolist())
    return tensor.to(next(model.parameters()).device)


def paint(scene: Scene, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paint the glyphs of a scene in the colors of a label map, in which 1 is the first color. Darken the background, but not the keys."""
    picture = scene.image // 2
    picture[:, :KEY] = scene.image[:, :KEY]
    glyphs = scene.labels > 0
    picture[glyphs] = np.array(COLOR_PALETTE, np.uint8)[labels[glyphs] - 1]
    return picture


def _draw_sheet(titles: Sequence[str], rows: Sequence[Sequence[NDArray[np.uint8]]], path: Path) -> None:
    """Draw rows of RGB pictures, with a title over each column."""
    figure = Figure(figsize=(2.2 * len(titles), 2.2 * len(rows) + 0.3), layout='constrained')
    all_axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, pictures in zip(all_axes, rows, strict=True):
        for axes, picture in zip(row, pictures, strict=True):
            axes.imshow(cv2.resize(picture, (256, 256), interpolation=cv2.INTER_NEAREST))
            axes.axis('off')
    for axes, title in zip(all_axes[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    save_figure(figure, path, dpi=110)
