"""Generate digits, a small classification dataset of scikit-learn's handwritten digits, drawn as in digit scenes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .digit_scenes import SOURCES_OF_PARTS, background, glyph, load_photos, split_digits
from .folder import make_folder

SPLITS = ('train', 'val')


def make_digits(root: str | Path, size: int = 64, copies: int = 2, seed: int = 0) -> Path:
    """Write the dataset as ``{train,val}/<digit>/*.jpg``, the format of mmpretrain's CustomDataset.

    Each image shows one digit on the two photographs. The splits are those of digit scenes with the same seed, so a model that is
    pre-trained on these images has not seen the validation digits of digit scenes. The same arguments produce the same images. A
    folder that already contains these images is left unchanged. A new folder appears only once it is complete.

    Args:
        root: The folder to create.
        size: Height and width of an image in pixels, from 32 to 256. Default: 64.
        copies: Number of images of each training digit, at least 1. There is one image of each validation digit. Default: 2.
        seed: Random seed. Default: 0.

    Returns:
        ``root``.

    Raises:
        ValueError: If a number is out of range.
        FileExistsError: If ``root`` exists and does not contain these images.
    """
    if not 32 <= size <= 256:
        raise ValueError(f'size must be between 32 and 256 pixels, got {size}')
    if copies < 1:
        raise ValueError(f'copies must be at least 1, got {copies}')
    if not 0 <= seed < 2**32:
        raise ValueError(f'seed must be between 0 and 2**32 - 1, got {seed}')

    def write(folder: Path) -> None:
        photos = load_photos()
        for split, (images, labels), repeats in zip(SPLITS, split_digits(seed), (copies, 1), strict=True):
            rng = np.random.default_rng([seed, size, SPLITS.index(split)])
            for label in range(10):
                (folder / split / str(label)).mkdir(parents=True)
            for index in np.repeat(np.arange(len(images)), repeats):
                scene, _ = background(rng, photos, size)
                alpha = glyph(rng, images[index], size)[..., None]
                scene = scene * (1 - alpha) + rng.uniform(0.75, 1.0, size=3) * 255 * alpha
                into = folder / split / str(labels[index])
                path = into / f'{labels[index]}_{len(list(into.iterdir())):04d}.jpg'
                cv2.imwrite(str(path), scene.round().astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        (folder / 'README.txt').write_text(f'Digits, written by mmpelk (tools/make_digits.py).\n\n{SOURCES_OF_PARTS}')

    return make_folder(root, dict(version=1, size=size, copies=copies, seed=seed), write)
