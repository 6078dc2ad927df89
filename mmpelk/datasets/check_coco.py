"""Check COCO annotation files, from which a dataset would otherwise drop invalid items silently."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmpelk.utils.arguments import is_number
from mmpelk.utils.errors import InputError, first_line

# A box may extend beyond its image by a rounding error.
MAX_OUTSIDE_PIXELS = 2


def check_coco(ann_file: str | Path, image_dir: str | Path, classes: Sequence[str], needs_masks: bool = False) -> None:
    """Check that a COCO annotation file is complete and matches its images and the classes.

    mmdet would silently train on fewer classes and skip boxes outside their image. COCO itself has a few boxes without area; mmdet skips
    them, and a warning is logged.

    Args:
        ann_file: The JSON file.
        image_dir: The folder that ``file_name`` is relative to.
        classes: Names that must be among the file's categories.
        needs_masks: Whether each annotation must have a segmentation.

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
        _check_items(Path(ann_file), data, image_dir, classes, needs_masks)
    except InputError:
        raise
    except KeyError as error:
        raise InputError(f"{ann_file} is not a COCO file: an item has no '{first_line(error)}'") from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f'{ann_file} is not a COCO file: an item is malformed: {first_line(error)}') from error


def _check_items(ann_file: Path, data: dict, image_dir: str | Path, classes: Sequence[str], needs_masks: bool) -> None:
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
    images = _by_id(data['images'], ann_file, 'image')
    for image in images.values():
        if os.path.normpath(image['file_name']) not in present:
            raise InputError(f"{ann_file} lists image '{image['file_name']}' (id {image['id']}), which is not in {image_dir}")
        if not all(type(image[side]) is int and image[side] > 0 for side in ('width', 'height')):
            raise InputError(f"{ann_file}: image '{image['file_name']}' has size {image['width']}x{image['height']}")
    category_ids = {category['id'] for category in data['categories']}
    left_out = []
    for item in _by_id(data['annotations'], ann_file, 'annotation').values():
        where = f'{ann_file}, annotation {item["id"]}'
        if item['image_id'] not in images:
            raise InputError(f'{where}: image_id {item["image_id"]} is not among the images')
        if item['category_id'] not in category_ids:
            raise InputError(f'{where}: category_id {item["category_id"]} is not among the categories')
        image = images[item['image_id']]
        _check_box(item, image, where)
        if not is_number(item['area']) or item['area'] < 0:
            raise InputError(f'{where}: area is {item["area"]!r}; expected a number of at least 0')
        if item.get('iscrowd', 0) not in (0, 1):
            raise InputError(f'{where}: iscrowd is {item["iscrowd"]!r}; expected 0 or 1')
        if 'segmentation' in item:
            fault = _segmentation_fault(item['segmentation'], image)
            if fault:
                raise InputError(f'{where}: its segmentation {fault}')
        elif needs_masks:
            raise InputError(f'{where} has no segmentation, which LoadAnnotations with with_mask=True needs')
        if item['area'] == 0 or min(item['bbox'][2:]) < 1 or _has_line(item.get('segmentation')):
            left_out.append(item['id'])
    if left_out:
        print_log(
            f'{ann_file}: mmdet leaves out {len(left_out)} of {len(data["annotations"])} annotations, because their area is 0, their '
            f'box is smaller than 1x1, or a polygon has fewer than three points (the first is annotation {left_out[0]}).',
            'current',
            logging.WARNING,
        )


def _by_id(items: list[dict], ann_file: Path, kind: str) -> dict[int, dict]:
    """Return items by their ids, or raise InputError if two have the same."""
    found: dict[int, dict] = {}
    for item in items:
        if found.setdefault(item['id'], item) is not item:
            raise InputError(f'{ann_file}: two {kind}s have the id {item["id"]}')
    return found


def _check_box(item: dict, image: dict, where: str) -> None:
    """Raise InputError unless a box has no negative size and lies inside its image."""
    box = item['bbox']
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise InputError(f'{where}: box {box!r} is not four numbers: left, top, width, and height')
    left, top, width, height = box
    if min(width, height) < 0:
        raise InputError(f'{where}: box {box} has a negative size; a box is left, top, width, and height')
    inside = left >= -MAX_OUTSIDE_PIXELS and left + width <= image['width'] + MAX_OUTSIDE_PIXELS
    if not inside or top < -MAX_OUTSIDE_PIXELS or top + height > image['height'] + MAX_OUTSIDE_PIXELS:
        size = f'{image["width"]}x{image["height"]}'
        raise InputError(f"{where}: box {box} is not inside its image '{image['file_name']}' of {size}")


def _segmentation_fault(segmentation: Any, image: dict) -> str | None:
    """Return what is wrong with polygons or a run-length mask, or None if they are valid."""
    if isinstance(segmentation, list):
        if not segmentation:
            return 'has no polygon'
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) % 2 or not all(map(is_number, polygon)):
                return f'has the polygon {str(polygon)[:60]}; expected its points as x, y, x, y, ...'
        return None
    if not isinstance(segmentation, dict):
        return f'is {str(segmentation)[:60]}; expected a list of polygons or a run-length mask'
    size, counts = segmentation.get('size'), segmentation.get('counts')
    if size != [image['height'], image['width']]:
        return f'is a run-length mask of size {size}; expected {[image["height"], image["width"]]}, the height and width of its image'
    if isinstance(counts, str):
        counts = _runs(counts)
    if not isinstance(counts, list) or not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != math.prod(size):
        return f'is a run-length mask whose runs do not add up to the {math.prod(size)} pixels of its image'
    return None


def _has_line(segmentation: Any) -> bool:
    """Return whether a polygon has fewer than three points."""
    return isinstance(segmentation, list) and min(map(len, segmentation)) < 6


def _runs(counts: str) -> list[int] | None:
    """Decode the compressed runs of a COCO mask, or return None if the text ends within a run.

    As in pycocotools, each character contains 5 bits of a number, and a bit that says whether more follow. From the fourth run on, the
    number is the difference from the run two places before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode(errors='replace'):
        bits = character - 48
        if not 0 <= bits < 64:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return None if shift else runs
