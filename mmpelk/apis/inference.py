"""Predict with segmentors, detectors, and classifiers through OpenMMLab's inferencers."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.infer import BaseInferencer
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement
from mmengine.utils import ProgressBar

from mmpelk.utils.errors import InputError
from mmpelk.utils.memory import free_memory, measured_peak

from .drawing import draw, picture_writer
from .images import MAX_PIXELS, Inputs, find_sources, read_image

# The image sizes at which the memory of a prediction is measured, and a lower bound, which PeLK atto with UperNet exceeds.
MEASURED_SIZES = (256, 768)
MIN_BYTES_PER_PIXEL = 250


def inference(
    inferencer: BaseInferencer, inputs: Inputs, out_dir: str | Path | None = None, progress: bool = True
) -> list[BaseDataElement]:
    """Predict on images, folders of images, and videos.

    Args:
        inferencer: The result of :func:`init_model`.
        inputs: An image file, a folder of images, a video file, an (H, W, 3) uint8 BGR array, a source from
            :func:`mmpelk.apis.images.find_sources`, or a sequence of these.
        out_dir: Folder for drawings of the predictions: a PNG for each image and an MP4 for each video. None draws nothing.
        progress: Whether to show a progress bar with the remaining time.

    Returns:
        One data sample for each image and frame, in order, with ``pred_sem_seg``, ``pred_instances``, or ``pred_label``. The logits of
        segmentors are removed because they are many times larger than the image.

    Raises:
        InputError: If a file is missing or unreadable, a folder has no image, or two drawings would get the same name.
    """
    return list(predictions(inferencer, inputs, out_dir, progress))


def predictions(
    inferencer: BaseInferencer, inputs: Inputs, out_dir: str | Path | None = None, progress: bool = True
) -> Iterator[BaseDataElement]:
    """Yield the data samples of :func:`inference` one by one, for videos whose data samples do not fit in memory together."""
    sources = find_sources(inputs)
    names = [source.picture_name for source in sources]
    if out_dir is not None and len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f'two of the inputs would be drawn as {repeated}; rename one of them')
    bar = ProgressBar(sum(len(source.frames) for source in sources)) if progress else None
    for source in sources:
        with contextlib.ExitStack() as stack:
            write = None if out_dir is None else stack.enter_context(picture_writer(source, Path(out_dir)))
            sample = None
            for frame in source.frames:
                image = frame if isinstance(frame, np.ndarray) else read_image(frame)
                sample = predict(inferencer, image)
                if write:
                    write(draw(inferencer.model, inferencer.cfg, image, sample))
                if bar:
                    bar.update()
                yield sample
            if sample is None:
                raise InputError(f'cannot read video {source.name}: none of its frames can be decoded')


def predict(inferencer: BaseInferencer, image: np.ndarray) -> BaseDataElement:
    """Predict on one (H, W, 3) uint8 BGR image and return its data sample on the CPU.

    This is not thread-safe, because it redirects stdout.

    Raises:
        InputError: If the array has another shape or type.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f'images must be (H, W, 3) uint8 arrays, got {image.shape} {image.dtype}')
    with (
        DefaultScope.overwrite_default_scope(inferencer.cfg.default_scope),  # another framework's model may be loaded too
        contextlib.redirect_stdout(io.StringIO()),  # inferencers show a progress bar for each call
    ):
        result = inferencer(image, return_datasamples=True)
    if isinstance(result, dict):  # from mmdet
        result = result['predictions']
    sample = result[0] if isinstance(result, list) else result
    if 'seg_logits' in sample:
        del sample.seg_logits
    return sample.cpu()


def max_pixels(inferencer: BaseInferencer, share: float = 0.5) -> int:
    """Return the maximum number of pixels of an image whose prediction fits into a share of the free memory.

    The memory per pixel is measured with predictions on two images of noise. Memory grows in proportion to the number of pixels if the
    model processes the whole image at once, and more slowly if it resizes images or uses sliding windows.

    Args:
        inferencer: The result of :func:`init_model`.
        share: Fraction of the free memory to use. If the model is on a GPU, this is the GPU's memory.

    Returns:
        The number of pixels, at most ``MAX_PIXELS``.
    """
    device = next(inferencer.model.parameters()).device
    peaks = []
    for size in MEASURED_SIZES:
        image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
        with measured_peak(device) as peak:
            predict(inferencer, image)
        peaks.append(peak[0])
    small, large = (size**2 for size in MEASURED_SIZES)
    per_pixel = max((peaks[1] - peaks[0]) / (large - small), MIN_BYTES_PER_PIXEL)
    return min(MAX_PIXELS, int(share * free_memory(device) / per_pixel))
