"""Keep Pillow from running other programs. It decodes EPS with Ghostscript, which interprets a programming language."""

from __future__ import annotations

from typing import NoReturn

from PIL import EpsImagePlugin

# The formats that images are read in, whatever their file names are.
FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')


def forbid_ghostscript() -> None:
    """Make Pillow refuse EPS images in this process.

    mmcv's image loading has no option for the formats. With ``imdecode_backend='pillow'`` it reads each format that Pillow recognizes by
    its content, also from a file that is named ``.png``. Its default backend, OpenCV, does not read EPS and runs no programs.
    """
    EpsImagePlugin.Ghostscript = _refuse


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    raise OSError('it is an EPS image, which only Ghostscript can decode; convert it to PNG')
