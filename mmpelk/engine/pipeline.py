"""Data pipelines whose errors name the file that cannot be read."""

from __future__ import annotations

import os

import cv2
from mmengine.dataset import Compose
from PIL import Image

from mmpelk.utils.errors import InputError, first_line
from mmpelk.utils.pillow import FORMATS, check_image_depth, check_label_depth, forbid_ghostscript


class NamingPipeline(Compose):
    """A data pipeline whose errors name the file that cannot be read, and which never decodes EPS images with Ghostscript.

    It rejects images of more than 8 bits that Pillow would clip, label maps with labels that mmseg would wrap around, and images whose
    size differs from the size in their annotations.

    Args:
        pipeline: The pipeline whose transforms are run.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms
        self._checks = {'seg_map_path': check_label_depth}
        if any(getattr(step, 'imdecode_backend', None) == 'pillow' for step in self.transforms):
            self._checks['img_path'] = check_image_depth

    def __call__(self, data: dict) -> dict | None:
        forbid_ghostscript()  # in each worker too, because a spawned process does not inherit it
        paths = [data[key] for key in ('img_path', 'seg_map_path') if data.get(key)]
        try:
            for key, check in self._checks.items():
                if data.get(key) and os.path.isfile(data[key]):  # a file in a remote store is not checked
                    with Image.open(data[key]) as image:
                        check(image, data[key])
            if 'height' in data and os.path.isfile(data['img_path']):  # COCO's annotations have the sizes of the images
                with Image.open(data['img_path']) as image:
                    check_size(image, data)
            return super().__call__(data)
        except InputError:
            raise
        except (OSError, AssertionError, SyntaxError, ValueError, cv2.error, Image.DecompressionBombError) as error:
            unreadable = [path for path in paths if not _is_readable(path)]
            if not unreadable and isinstance(error, ValueError):  # Pillow raises a ValueError for a huge text chunk in a PNG
                raise
            raise InputError(f'cannot read {" or ".join(unreadable or paths)}: {first_line(error)}') from error


def check_size(image: Image.Image, data: dict) -> None:
    """Check that an image has the size in its annotations.

    Raises:
        InputError: If the sizes differ. Width and height may be swapped, because EXIF data can rotate an image when it is loaded.
    """
    sizes = [(data['width'], data['height']), (data['height'], data['width'])]
    if image.size not in sizes:
        raise InputError(
            f'{data["img_path"]} is {image.width}x{image.height}, but its annotations are for {data["width"]}x{data["height"]}'
        )


def _is_readable(path: str) -> bool:
    """Return whether Pillow can decode an image file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except Exception:  # a broken file can make Pillow raise anything, such as a SyntaxError
        return False
    return True
