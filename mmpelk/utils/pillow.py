"""Keep Pillow from running other programs and from clipping values.

Pillow decodes EPS with Ghostscript, which interprets a programming language. It clips gray images of more than 8 bits to 255 when they
are converted to RGB, so that they turn white.
"""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from PIL import EpsImagePlugin, Image

from .errors import InputError

# The formats of images that are read, regardless of their file names.
FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
# Pillow's modes with more than 8 bits per pixel and channel begin with these: integers of 16 or 32 bits, and floats.
DEEP_MODES = ('I', 'F')


def forbid_ghostscript() -> None:
    """Make Pillow refuse EPS images in this process.

    mmcv's image loading has no option for the formats. With ``imdecode_backend='pillow'``, it reads any format that Pillow recognizes by
    its content, even if the file name ends in ``.png``. Its default backend, OpenCV, does not read EPS and runs no programs.
    """
    EpsImagePlugin.Ghostscript = _refuse


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    raise OSError('it is an EPS image, which only Ghostscript can decode; convert it to PNG')


def check_image_depth(image: Image.Image, path: object) -> None:
    """Check that converting an image to RGB does not clip its values.

    Args:
        image: An open image.
        path: Its file, for the message.

    Raises:
        InputError: If it has more than 8 bits per pixel.
    """
    if image.mode.startswith(DEEP_MODES):
        raise InputError(f'image {path} has more than 8 bits per pixel (mode {image.mode}); convert it to 8 bits')


def check_label_depth(image: Image.Image, path: object) -> None:
    """Check that the labels in a label map fit into the 8 bits that mmseg keeps of them.

    Args:
        image: An open image.
        path: Its file, for the message.

    Raises:
        InputError: If a label is negative or above 255.
    """
    if image.mode.startswith(DEEP_MODES):
        labels = np.asarray(image)
        if labels.min() < 0 or labels.max() > 255:
            raise InputError(f'{path} contains labels from {labels.min()} to {labels.max()}; labels must be 0 to 255')
