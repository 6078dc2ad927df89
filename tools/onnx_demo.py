"""Draw the predictions of an ONNX file from tools/export.py on images.

It needs onnxruntime, numpy, and Pillow, but not torch, OpenMMLab, or mmpelk.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

MAX_PIXELS = 2**25
# Otherwise, Pillow would decode EPS images with Ghostscript, regardless of their names.
FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path, help='ONNX file of a segmentor or a classifier')
    parser.add_argument('images', nargs='+', metavar='image', help='image files')
    parser.add_argument('--out-dir', type=Path, default=Path('onnx_out'), help='folder for the pictures; default: %(default)s')
    args = parser.parse_args()
    session, about = load(args.model)
    names = [f'{Path(image).stem}.png' for image in args.images]
    if len(set(names)) < len(names):
        fail('two of the images have the same name; their pictures would overwrite each other')
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f'cannot use {error.filename}: {error.strerror}')
    for index, path in enumerate(args.images):
        image = read(path)
        # Without a fixed size, the model accepts sizes of at least 64.
        size = about['size'] or [max(64, length) for length in image.size[::-1]]
        pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)[None]
        # With a fixed batch, repeat the image to fill it.
        try:
            (logits,) = session.run(None, {'images': np.repeat(pixels, about['batch'] or 1, 0)})
        except Exception as error:  # onnxruntime has many exception types
            fail(f'{args.model} cannot be run on {path}: {str(error).splitlines()[0]}')
        if logits.ndim != (4 if about['task'] == 'segmentation' else 2) or logits.shape[1] != len(about['classes']):
            fail(f'{args.model} has outputs of shape {logits.shape}, which do not match its {len(about["classes"])} classes')
        picture = overlay(image, logits[0], about) if about['task'] == 'segmentation' else caption(image, logits[0], about)
        try:
            picture.save(args.out_dir / names[index])
        except OSError as error:
            fail(f'cannot write {args.out_dir / names[index]}: {error.strerror}')
        print(f'{index + 1}/{len(names)} {args.out_dir / names[index]}')


def load(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """Open a session, and read the metadata of the file."""
    if not path.is_file():
        fail(f'model {path} does not exist')
    try:
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    except Exception as error:  # onnxruntime has many exception types
        fail(f'{path} is not an ONNX model: {str(error).splitlines()[0]}')
    if about.get('part') != 'model':
        fail(f'{path} does not output logits; export a segmentor or a classifier with tools/export.py')
    if about.get('activation') == 'sigmoid':
        fail(f'{path} has classes that are not mutually exclusive; only the classes of a softmax can be drawn')
    check(path, about)
    return session, about


def check(path: Path, about: dict) -> None:
    """Exit with an error unless the metadata have the values that tools/export.py writes."""

    def is_list(value: object, length: int | None, first: int, last: int) -> bool:
        is_valid = isinstance(value, list) and all(type(item) is int and first <= item <= last for item in value)
        return is_valid and length in (None, len(value))

    classes, palette = about.get('classes'), about.get('palette')
    has_classes = isinstance(classes, list) and len(classes) > 0 and all(isinstance(name, str) for name in classes)
    has_colors = isinstance(palette, list) and all(is_list(color, 3, 0, 255) for color in palette)
    valid = dict(
        task=about.get('task') in ('segmentation', 'classification'),
        activation=about.get('activation') == 'softmax',
        size='size' in about and (about['size'] is None or is_list(about['size'], 2, 1, MAX_PIXELS)),
        batch='batch' in about and (about['batch'] is None or is_list([about['batch']], 1, 1, MAX_PIXELS)),
        classes=has_classes,
        palette=has_colors and has_classes and len(palette) == len(classes),
    )
    for key, is_valid in valid.items():
        if not is_valid:
            fail(f'{path} has {str(about.get(key))[:60]!r} as {key} in its metadata; export the model again with tools/export.py')


def read(path: str) -> Image.Image:
    """Read an RGB image, and rotate it according to its EXIF data."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                fail(f'image {path} has {image.width}x{image.height} pixels; the maximum is {MAX_PIXELS:,}')
            if image.mode.startswith(('I', 'F')):  # Pillow would clip it
                fail(f'image {path} has more than 8 bits per pixel (mode {image.mode}); convert it to 8 bits')
            return ImageOps.exif_transpose(image).convert('RGB')
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # a huge text in a PNG is a ValueError
        fail(f'cannot read image {path}: {error}')


def overlay(image: Image.Image, logits: np.ndarray, about: dict) -> Image.Image:
    """Draw the colors of the classes over an image, with a line of text for each class in it."""
    labels = logits.argmax(0)
    palette = np.array(about['palette'], np.uint8)
    colors = Image.fromarray(palette[labels]).resize(image.size, Image.Resampling.NEAREST)
    factor = max(1, 512 // max(image.size))
    picture = Image.blend(image, colors, 0.6).resize([factor * length for length in image.size])
    draw = ImageDraw.Draw(picture)
    for line, label in enumerate(np.unique(labels)):
        name, share = about['classes'][label], (labels == label).mean()
        draw.rectangle((4, 4 + 14 * line, 14, 14 + 14 * line), fill=tuple(palette[label].tolist()), outline='white')
        draw.text((18, 3 + 14 * line), f'{name}: {share:.0%}', fill='white', stroke_width=1, stroke_fill='black')
    return picture


def caption(image: Image.Image, logits: np.ndarray, about: dict) -> Image.Image:
    """Write the three most likely classes below an image."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    factor = max(1, 256 // max(image.size))
    picture = image.resize([factor * length for length in image.size])
    sheet = Image.new('RGB', (picture.width, picture.height + 48), 'white')
    sheet.paste(picture)
    for line, label in enumerate(np.argsort(-scores)[:3]):
        name = about['classes'][label]
        ImageDraw.Draw(sheet).text((6, picture.height + 2 + 15 * line), f'{name}: {scores[label]:.1%}', fill='black')
    return sheet


def fail(message: str) -> None:
    """Print an error and exit."""
    print(f'error: {message}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
    main()
