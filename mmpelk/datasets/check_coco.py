"""Check COCO annotation files, from which a dataset would otherwise drop invalid items silently."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmpelk.utils.errors import InputError, first_line

# A box may extend beyond its image by a rounding error.
MAX_OUTSIDE_PIXELS = 2


def check_coco(ann_file: str | Path, image_dir: str | Path, classes: Sequence[str]) -> None:
    """Check that a COCO annotation file is complete and matches its images and the classes.

    mmdet would silently train on fewer classes and skip boxes outside their image.

    Args:
        ann_file: The JSON file.
        image_dir: The folder that ``file_name`` is relative to.
        classes: Names that must be among the file's categories.

    Raises:
        InputError: If the file is invalid. The message names the file and the first invalid item.
    """
    try:
        data = json.loads(Path(ann_file).read_bytes())
    except ValueError as error:
        raise InputError(f'{ann_file} is not valid JSON: {first_line(error)}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise InputError(f"{ann_file} is not a COCO file: it has no list '{key}'")
    try:
        _check_items(Path(ann_file), data, image_dir, classes)
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{ann_file} is not a COCO file: an item has no '{first_line(error)}'") from error
    except (TypeError, ValueError) as error:
        raise InputError(f'{ann_file} is not a COCO file: an item is malformed: {first_line(error)}') from error


def _check_items(ann_file: Path, data: dict, image_dir: str | Path, classes: Sequence[str]) -> None:
    """Raise an InputError at the first item that is invalid, or a KeyError, TypeError, or ValueError if it is malformed."""
    names = [category['name'] for category in data['categories']]
    missing = [name for name in classes if name not in names]
    if missing:
        raise InputError(
            f"{ann_file} has no category '{missing[0]}' ({len(missing)} of the config's {len(classes)} classes are missing); "
            f'its categories are {", ".join(map(str, names[:10]))}{", ..." if len(names) > 10 else ""}'
        )
    present = {
        os.path.relpath(os.path.join(folder, file), image_dir) for folder, _, files in os.walk(image_dir) for file in files
    }
    images = {image['id']: image for image in data['images']}
    for image in images.values():
        if os.path.normpath(image['file_name']) not in present:
            raise InputError(f"{ann_file} lists image '{image['file_name']}' (id {image['id']}), which is not in {image_dir}")
    category_ids = {category['id'] for category in data['categories']}
    for item in data['annotations']:
        where = f'{ann_file}, annotation {item["id"]}'
        if item['image_id'] not in images:
            raise InputError(f'{where}: image_id {item["image_id"]} is not among the images')
        if item['category_id'] not in category_ids:
            raise InputError(f'{where}: category_id {item["category_id"]} is not among the categories')
        image, (left, top, width, height) = images[item['image_id']], item['bbox']
        inside = left >= -MAX_OUTSIDE_PIXELS and left + width <= image['width'] + MAX_OUTSIDE_PIXELS
        if not inside or top < -MAX_OUTSIDE_PIXELS or top + height > image['height'] + MAX_OUTSIDE_PIXELS:
            size = f'{image["width"]}x{image["height"]}'
            raise InputError(f"{where}: box {item['bbox']} is not inside its image '{image['file_name']}' of {size}")
