"""Read image files, folders, and videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mmcv
import numpy as np
from PIL import Image, UnidentifiedImageError

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.pillow import FORMATS, check_image_depth

IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
VIDEOS = ('.avi', '.m4v', '.mkv', '.mov', '.mp4', '.webm')
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

    The format is determined by the content, not by the file name. Formats that Pillow decodes with other programs, such as EPS, are
    rejected.

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
    ) as error:  # Pillow reports a huge text chunk in a PNG as a ValueError
        raise InputError(f'cannot read image {path}: {first_line(error)}') from error
