"""Generate keyed rows, a small segmentation dataset in which the label of a pixel can be far away from it.

A scene shows rows of small gray glyphs on a noisy background. A block of one of four colors, the key, starts each row at the left edge.
Every glyph is labeled with the color of its own key. The key is far away from most glyphs in x, but must be located precisely in y.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .folder import make_folder

COLORS = ('red', 'green', 'blue', 'yellow')
COLOR_PALETTE = ((225, 60, 60), (60, 190, 80), (60, 110, 235), (240, 205, 60))
SPLITS = ('training', 'validation')
# Height and width of a glyph, width of a key, and the minimum number of free pixels between two rows.
GLYPH, KEY, GAP = 7, 8, 2
# The smallest and the largest distance from the key or a glyph to the next glyph in pixels.
DISTANCES = (4, 12)

README = """Keyed rows, written by mmpelk (tools/make_keyed_rows.py). Everything is generated.

images/{training,validation}/*.jpg         scenes
annotations/{training,validation}/*.png    label maps as in ADE20K: 0 unlabeled, 1-4 glyphs of a red, green, blue, yellow key
"""


def make_keyed_rows(
    root: str | Path,
    num_training: int = 800,
    num_validation: int = 64,
    size: int = 128,
    rows: int = 6,
    jitter: int = 2,
    seed: int = 0,
) -> Path:
    """Write the dataset to an ADE20K-style folder.

    The same arguments produce the same scenes. The splits are drawn independently of each other. Only glyphs are labeled; keys and
    background are 0. A folder that already contains these scenes is left unchanged. A new folder appears only once it is complete.

    Args:
        root: The folder to create.
        num_training: Number of training scenes, at least 1. Default: 800.
        num_validation: Number of validation scenes, at least 1. Default: 64.
        size: Height and width of a scene in pixels, from 32 to 1024. Keys are farther away in larger scenes. Default: 128.
        rows: Number of rows, at least 1. More rows bring the other keys closer. Default: 6.
        jitter: Largest distance of a glyph above or below the middle of its row in pixels, at least 0. Default: 2.
        seed: Random seed, at least 0. Default: 0.

    Returns:
        ``root``.

    Raises:
        ValueError: If a number is out of range, or the rows do not fit into the scene.
        FileExistsError: If ``root`` exists and does not contain these scenes.
    """
    counts = dict(training=num_training, validation=num_validation)
    settings = dict(num_training=(num_training, 1), num_validation=(num_validation, 1), rows=(rows, 1), jitter=(jitter, 0))
    for name, (value, least) in (settings | dict(seed=(seed, 0))).items():
        if value < least:
            raise ValueError(f'{name} must be at least {least}, got {value}')
    if not 32 <= size <= 1024:
        raise ValueError(f'size must be between 32 and 1024 pixels, got {size}')
    if rows * _pitch(jitter) > size:
        raise ValueError(
            f'{rows} rows with a jitter of {jitter} need {rows * _pitch(jitter)} pixels, but size is {size}; '
            'choose fewer rows, less jitter, or a larger size'
        )

    def write(folder: Path) -> None:
        for number, (split, count) in enumerate(counts.items()):
            rng = np.random.default_rng([seed, number])
            for kind in ('images', 'annotations'):
                (folder / kind / split).mkdir(parents=True)
            for index in range(count):
                image, labels = _scene(rng, size, rows, jitter)
                name = f'{split}_{index:04d}'
                cv2.imwrite(str(folder / f'images/{split}/{name}.jpg'), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
                cv2.imwrite(str(folder / f'annotations/{split}/{name}.png'), labels)
        (folder / 'README.txt').write_text(README)

    return make_folder(root, dict(version=1, **counts, size=size, rows=rows, jitter=jitter, seed=seed), write)


def _pitch(jitter: int) -> int:
    """Return the smallest distance between the middles of two rows in pixels."""
    return GLYPH + 2 * jitter + GAP


def _scene(rng: np.random.Generator, size: int, rows: int, jitter: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return a (size, size, 3) RGB image and its (size, size) label map."""
    image = np.full((size, size, 3), rng.uniform(40, 90))
    labels = np.zeros((size, size), np.uint8)
    free = np.sort(rng.integers(0, size - rows * _pitch(jitter) + 1, size=rows))
    for row, space in enumerate(free):
        middle = int(space) + row * _pitch(jitter) + jitter  # where a glyph without jitter starts
        color = int(rng.integers(len(COLORS)))
        image[middle : middle + GLYPH, :KEY] = COLOR_PALETTE[color]
        left = KEY + int(rng.integers(*DISTANCES, endpoint=True))
        while left + GLYPH <= size:
            top = middle + int(rng.integers(-jitter, jitter, endpoint=True))
            shape = GLYPHS[rng.integers(len(GLYPHS))]
            place = (slice(top, top + GLYPH), slice(left, left + GLYPH))
            image[place][shape] = rng.uniform(150, 220)
            labels[place][shape] = color + 1
            left += GLYPH + int(rng.integers(*DISTANCES, endpoint=True))
    image += rng.normal(0, 12, size=(size, size, 1))
    return image.round().clip(0, 255).astype(np.uint8), labels


def _glyphs() -> tuple[NDArray[np.bool_], ...]:
    """Return the (GLYPH, GLYPH) masks of a plus, a cross, a square, and a bar."""
    y, x = np.abs(np.mgrid[:GLYPH, :GLYPH] - GLYPH // 2)
    return (x <= 1) | (y <= 1), np.abs(x - y) <= 1, np.maximum(x, y) >= 2, y <= 1


GLYPHS = _glyphs()
