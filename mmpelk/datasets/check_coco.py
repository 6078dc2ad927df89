"""A check of COCO annotation files, before a data set silently leaves out what does not fit."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmpelk.utils.errors import InputError, first_line

# A box may stick out of its image by a rounding error.
SLACK_PIXELS = 2


def check_coco(ann_file: str | Path, image_dir: str | Path, classes: Sequence[str]) -> None:
    """Check that a COCO annotation file is whole and fits its images and the classes.

    mmdet itself would train on fewer classes, and skip boxes outside their image, without a word.

    Args:
        ann_file: The JSON file.
        image_dir: The folder that ``file_name`` is relative to.
        classes: Names that must be among the file's categories.

    Raises:
        InputError: At the first fault, naming the file and the item.
    """
    try:
        data = json.loads(Path(ann_file).read_bytes())
    except ValueError as error:
        raise InputError(f'{ann_file} is no valid JSON: {first_line(error)}') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise InputError(f"{ann_file} has no list '{key}', as a COCO file must")
    try:
        _check_items(Path(ann_file), data, image_dir, classes)
    except (KeyError, TypeError) as error:
        raise InputError(f'{ann_file} is no COCO file: an item lacks or misuses {first_line(error)}') from error


def _check_items(ann_file: Path, data: dict, image_dir: str | Path, classes: Sequence[str]) -> None:
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
            raise InputError(f"{ann_file} names image '{image['file_name']}' (id {image['id']}), which is not in {image_dir}")
    category_ids = {category['id'] for category in data['categories']}
    for item in data['annotations']:
        where = f'{ann_file}, annotation {item["id"]}'
        if item['image_id'] not in images:
            raise InputError(f'{where}: image_id {item["image_id"]} is not among the images')
        if item['category_id'] not in category_ids:
            raise InputError(f'{where}: category_id {item["category_id"]} is not among the categories')
        image, (left, top, width, height) = images[item['image_id']], item['bbox']
        inside = left >= -SLACK_PIXELS and left + width <= image['width'] + SLACK_PIXELS
        if not inside or top < -SLACK_PIXELS or top + height > image['height'] + SLACK_PIXELS:
            size = f'{image["width"]}x{image["height"]}'
            raise InputError(f"{where}: box {item['bbox']} lies outside its image '{image['file_name']}' of {size}")
