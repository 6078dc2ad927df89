"""Read image files, folders, and videos, and draw predictions as pictures and videos."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.registry import VISUALIZERS, DefaultScope
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image, UnidentifiedImageError
from torch import Tensor, nn

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.pillow import FORMATS, check_image_depth

IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
# Smaller images are magnified before drawing, so that class names are legible.
DRAWN_SIZE = 512
# Predictions on larger images need tens of gigabytes. Photographs are smaller.
MAX_PIXELS = 2**25


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        name: The file name without its suffix.
        frames: Image files, (H, W, 3) uint8 BGR arrays, or a video that reads them one by one.
    """

    name: str
    frames: Sequence[Path | np.ndarray] | mmcv.VideoReader

    @property
    def is_video(self) -> bool:
        """Whether the source is a video."""
        return isinstance(self.frames, mmcv.VideoReader)

    @property
    def picture_name(self) -> str:
        """The file name of the drawing."""
        return f'{self.name}{".mp4" if self.is_video else ".png"}'


Input = str | Path | np.ndarray | Source
Inputs = Input | Sequence[Input]


def find_sources(inputs: Inputs) -> list[Source]:
    """Find the images and videos in the ``inputs`` of :func:`mmpelk.apis.inference`. Those of a folder are sorted by name.

    Raises:
        InputError: If a folder has no image, or a video is missing or unreadable.
    """
    sources = []
    for item in [inputs] if isinstance(inputs, Input) else inputs:
        if isinstance(item, Source):
            sources.append(item)
        elif isinstance(item, np.ndarray):
            sources.append(Source(f'{len(sources):06d}', [item]))
        elif Path(item).is_dir():
            sources += [Source(path.stem, [path]) for path in images_in(Path(item))]
        elif Path(item).suffix.lower() in VIDEOS:
            sources.append(Source(Path(item).stem, _video(item)))
        else:
            sources.append(Source(Path(item).stem, [Path(item)]))
    return sources


def images_in(folder: Path) -> list[Path]:
    """Return the image files in a folder, sorted by name.

    Raises:
        InputError: If there are none.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES)
    if not files:
        raise InputError(f'folder {folder} has no images; expected files ending in {", ".join(IMAGES)}')
    return files


def _video(path: str | Path) -> mmcv.VideoReader:
    if not Path(path).is_file():
        raise InputError(f'video {path} does not exist')
    video = mmcv.VideoReader(str(path))
    if video.frame_cnt < 1:  # mmcv reports a negative count for some broken files
        raise InputError(f'cannot read video {path}: OpenCV finds no frame in it')
    return video


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file as an (H, W, 3) uint8 BGR array, rotated according to its EXIF data.

    The content decides the format, not the file name. Formats that Pillow decodes with other programs, such as EPS, are refused.

    Args:
        path: The file.
        max_pixels: The largest number of pixels.

    Raises:
        InputError: If the file is missing, truncated, too large, not an image of a known format, or has more than 8 bits per channel.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise InputError(f'image {path} has {width}x{height} pixels; scale it down to at most {max_pixels:,} pixels')
            check_image_depth(image, path)
            image.load()
        return mmcv.imread(str(path), channel_order='bgr', backend='pillow')
    except FileNotFoundError as error:
        raise InputError(f'image {path} does not exist') from error
    except Image.DecompressionBombError as error:
        raise InputError(f'image {path} is too large; scale it down to at most {max_pixels:,} pixels: {error}') from error
    except UnidentifiedImageError as error:
        raise InputError(f'cannot read image {path}: its content is none of {", ".join(FORMATS)}; convert it to PNG') from error
    except InputError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
    ) as error:  # Pillow reports a huge text in a PNG as a ValueError
        raise InputError(f'cannot read image {path}: {first_line(error)}') from error


def draw(model: nn.Module, cfg: Config, image: np.ndarray, sample: BaseDataElement) -> np.ndarray:
    """Draw a prediction on its image. Image and drawing are (H, W, 3) uint8 BGR arrays. Small images are magnified."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        visualizer = VISUALIZERS.build({'name': 'drawing', **cfg.visualizer, 'vis_backends': None})
    visualizer.dataset_meta = model.dataset_meta
    factor = max(1, DRAWN_SIZE // max(image.shape[:2]))
    image = mmcv.bgr2rgb(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC))
    sample = _magnify(sample.cpu().clone(), factor)
    if cfg.default_scope == 'mmpretrain':
        return mmcv.rgb2bgr(visualizer.visualize_cls(image, sample, draw_gt=False))
    visualizer.add_datasample('prediction', image, sample, draw_gt=False)
    return mmcv.rgb2bgr(visualizer.get_image())


def _magnify(sample: BaseDataElement, factor: int) -> BaseDataElement:
    """Scale the label maps, boxes, and masks of a sample by an integer factor."""
    if 'pred_sem_seg' in sample:
        sample.pred_sem_seg = PixelData(data=_repeat(sample.pred_sem_seg.data, factor))
    if 'pred_panoptic_seg' in sample:
        sample.pred_panoptic_seg = PixelData(sem_seg=_repeat(sample.pred_panoptic_seg.sem_seg, factor))
    if 'pred_instances' in sample:
        sample.pred_instances.bboxes = sample.pred_instances.bboxes * factor
        if 'masks' in sample.pred_instances:
            sample.pred_instances.masks = _repeat(sample.pred_instances.masks, factor)
    return sample


def _repeat(maps: Tensor, factor: int) -> Tensor:
    return maps.repeat_interleave(factor, -2).repeat_interleave(factor, -1)


@contextlib.contextmanager
def picture_writer(source: Source, out_dir: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """Provide a function that writes the BGR pictures of a source. A video file appears only once it is complete."""
    if not source.is_video:
        yield lambda picture: mmcv.imwrite(picture, str(out_dir / source.picture_name))
        return
    unfinished, video = out_dir / f'.{source.name}-unfinished.mp4', None

    def write(picture: np.ndarray) -> None:
        nonlocal video
        if video is None:
            out_dir.mkdir(parents=True, exist_ok=True)
            size = picture.shape[1::-1]
            video = cv2.VideoWriter(str(unfinished), cv2.VideoWriter_fourcc(*'mp4v'), source.frames.fps or 25, size)
            if not video.isOpened():
                raise InputError(f'OpenCV cannot write the video {out_dir / source.picture_name}')
        video.write(picture)

    try:
        yield write
        video.release()  # it exists, because a video without frames raises an error earlier
        unfinished.replace(out_dir / source.picture_name)
    finally:
        unfinished.unlink(missing_ok=True)
