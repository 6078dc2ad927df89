"""Generate digit scenes, a small segmentation and detection dataset of real handwriting on real photographs.

Everything comes from scikit-learn: its 1797 handwritten digits and its two sample photographs. A scene shows the two photographs,
darkened and separated by a straight line. Bright digits, which do not touch each other, are drawn on them.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .folder import make_folder

DIGIT_CLASSES = tuple(str(digit) for digit in range(10))
CLASSES = (*DIGIT_CLASSES, 'temple', 'flower')
PALETTE = (
    (230, 60, 60), (255, 150, 40), (250, 220, 60), (150, 220, 60), (50, 180, 90),
    (60, 210, 210), (60, 140, 250), (130, 90, 240), (220, 90, 230), (250, 130, 180),
    (110, 120, 140), (60, 70, 60),
)  # fmt: skip
SPLITS = ('training', 'validation')

SOURCES_OF_PARTS = """Everything shown comes from scikit-learn:

- Digits: "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0.
- temple: china.jpg by danielbuechele, https://www.flickr.com/photos/danielbuechele/6061409035, CC BY 2.0.
- flower: flower.jpg by vultilion, https://www.flickr.com/photos/vultilion/6056698931, CC BY 2.0.

The photographs are cropped, rescaled, and darkened. The digits are enlarged, rotated, and tinted.
"""
SOURCES = f"""Digit scenes, written by mmpelk (tools/make_digit_scenes.py). {SOURCES_OF_PARTS}
images/{{training,validation}}/*.jpg               scenes
annotations/{{training,validation}}/*.png          label maps as in ADE20K: 0 unlabeled, 1-10 digits 0-9, 11 temple, 12 flower
instances_{{training,validation}}.json             the digits as COCO instances: boxes and run-length masks, 10 categories
"""


class _Digit(NamedTuple):
    label: int
    mask: NDArray[np.bool_]


def make_digit_scenes(
    root: str | Path, num_training: int = 800, num_validation: int = 120, size: int = 128, seed: int = 0
) -> Path:
    """Write the dataset to an ADE20K-style folder that also contains COCO-style instance annotations.

    The same arguments produce the same scenes. No digit is in both splits, but both show the same two photographs. A folder that
    already contains these scenes is left unchanged. A new folder appears only once it is complete.

    Args:
        root: The folder to create.
        num_training: Number of training scenes, at least 1. Default: 800.
        num_validation: Number of validation scenes, at least 1. Default: 120.
        size: Height and width of a scene in pixels, from 64 to 256. Default: 128.
        seed: Random seed. Default: 0.

    Returns:
        ``root``.

    Raises:
        ValueError: If a number is out of range.
        FileExistsError: If ``root`` exists and does not contain these scenes.
    """
    counts = dict(training=num_training, validation=num_validation)
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f'num_{split} must be at least 1, got {count}')
    if not 64 <= size <= 256:
        raise ValueError(f'size must be between 64 and 256 pixels, got {size}')
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed must be between 0 and 2**32 - 1, got {seed}')

    def write(folder: Path) -> None:
        _write(folder, counts, size, seed)
        (folder / 'README.txt').write_text(SOURCES)

    return make_folder(root, dict(version=1, **counts, size=size, seed=seed), write)


def _write(root: Path, counts: dict[str, int], size: int, seed: int) -> None:
    """Write the images, label maps, and instance annotations of both splits."""
    photos = load_photos()
    for split, digits in zip(SPLITS, split_digits(seed), strict=True):
        rng = np.random.default_rng([seed, SPLITS.index(split)])
        for kind in ('images', 'annotations'):
            (root / kind / split).mkdir(parents=True)
        coco: dict[str, Any] = dict(
            info=dict(description='digit scenes', version='1'),
            licenses=[],
            images=[],
            annotations=[],
            categories=[dict(id=i + 1, name=name, supercategory='digit') for i, name in enumerate(DIGIT_CLASSES)],
        )
        for index in range(counts[split]):
            image, labels, placed = _scene(rng, digits, photos, size)
            name = f'{split}_{index:04d}'
            cv2.imwrite(str(root / 'images' / split / f'{name}.jpg'), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            cv2.imwrite(str(root / 'annotations' / split / f'{name}.png'), labels)
            coco['images'].append(dict(id=index + 1, file_name=f'{name}.jpg', height=size, width=size))
            for digit in placed:
                coco['annotations'].append(_coco_instance(digit, image_id=index + 1, instance_id=len(coco['annotations']) + 1))
        (root / f'instances_{split}.json').write_text(json.dumps(coco))


def split_digits(seed: int) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Return the training split, which has three quarters of the digits of each class, and the validation split.

    Each is a pair of images (N, 8, 8) in [0, 1] and labels (N,).
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits().images / 16, load_digits().target
    train_images, val_images, train_labels, val_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=seed
    )
    return [(train_images, train_labels), (val_images, val_labels)]


def load_photos() -> list[NDArray[np.uint8]]:
    """Return scikit-learn's two sample photographs, in RGB."""
    from sklearn.datasets import load_sample_image

    return [load_sample_image(name) for name in ('china.jpg', 'flower.jpg')]


def _scene(rng: np.random.Generator, digits: tuple, photos: list, size: int) -> tuple[NDArray, NDArray, list[_Digit]]:
    """Return an RGB image, its label map, and the digits on it."""
    image, labels = background(rng, photos, size)
    # A jittered 2 x 2 layout keeps the digits apart. One place in eight stays empty.
    half = size // 2
    placed = []
    for top, left in ((0, 0), (0, half), (half, 0), (half, half)):
        if rng.random() < 1 / 8 and placed:
            continue
        index = rng.integers(len(digits[0]))
        alpha = glyph(rng, digits[0][index], half)
        label = int(digits[1][index])
        tint = rng.uniform(0.75, 1.0, size=3) * 255
        place = (slice(top, top + half), slice(left, left + half))
        image[place] = image[place] * (1 - alpha[..., None]) + tint * alpha[..., None]
        mask = np.zeros((size, size), bool)
        mask[place] = alpha > 0.5
        labels[mask] = label + 1
        placed.append(_Digit(label, mask))
    return image.round().astype(np.uint8), labels, placed


def background(rng: np.random.Generator, photos: list, size: int) -> tuple[NDArray, NDArray]:
    """Return darkened crops of the two photographs, separated by a line through the middle third, and the label map."""
    crops = []
    for photo in photos:
        side = int(rng.integers(size, min(2 * size, *photo.shape[:2]) + 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
        crop = cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
        crops.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    angle = rng.uniform(0, 2 * math.pi)
    y0, x0 = rng.uniform(size / 3, 2 * size / 3, size=2)
    y, x = np.mgrid[:size, :size]
    side_of_line = (x - x0) * math.cos(angle) + (y - y0) * math.sin(angle) > 0
    image = np.where(side_of_line[..., None], *crops) * rng.uniform(0.35, 0.55)
    first = len(DIGIT_CLASSES) + 1
    return image, np.where(side_of_line, first, first + 1).astype(np.uint8)


def glyph(rng: np.random.Generator, digit: NDArray, box: int) -> NDArray:
    """Enlarge a digit, rotate it slightly, and shift it. Return a (box, box) array of opacities with an empty border."""
    side = rng.uniform(0.75, 0.95) * box
    angle = math.radians(rng.uniform(-12, 12))
    room = (box - 2 - side) / 2
    shift_x, shift_y = rng.uniform(-room, room, size=2) if room > 0 else (0.0, 0.0)
    scale = side / 8
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    middle = np.array([3.5, 3.5])
    linear = np.array([[cos, -sin], [sin, cos]])
    offset = np.array([box / 2 + shift_x, box / 2 + shift_y]) - 0.5 - linear @ middle
    alpha = cv2.warpAffine(digit, np.column_stack([linear, offset]), (box, box), flags=cv2.INTER_CUBIC)
    alpha[[0, -1]] = 0
    alpha[:, [0, -1]] = 0
    # Sharpen the blur of the enlargement, so that the edge of a stroke is about one pixel wide.
    return np.clip((alpha - 0.45) * 6 + 0.5, 0, 1)


def _coco_instance(digit: _Digit, image_id: int, instance_id: int) -> dict[str, Any]:
    """Return a digit as a COCO instance."""
    rows, columns = np.nonzero(digit.mask)
    top, left = int(rows.min()), int(columns.min())
    return dict(
        id=instance_id,
        image_id=image_id,
        category_id=digit.label + 1,
        bbox=[left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
        area=int(digit.mask.sum()),
        iscrowd=0,
        segmentation=_run_lengths(digit.mask),
    )


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Encode a mask in COCO's uncompressed run-length encoding: alternating runs of 0 and 1 in column order, starting with 0."""
    flat = np.concatenate([[False], mask.ravel(order='F'), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    ends = changes if len(changes) and changes[-1] == mask.size else np.append(changes, mask.size)
    counts = np.diff(np.concatenate([[0], ends]))
    return dict(size=list(mask.shape), counts=[int(count) for count in counts])
