"""Draw what an ONNX file of tools/export.py predicts on images. Needs onnxruntime, numpy and Pillow: no torch, no OpenMMLab, no mmpelk."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

MAX_PIXELS = 2**25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', type=Path, help='ONNX file of a segmentor or a classifier')
    parser.add_argument('images', nargs='+', metavar='image', help='image files')
    parser.add_argument('--out-dir', type=Path, default=Path('onnx_out'), help='folder for the pictures; default: %(default)s')
    args = parser.parse_args()
    session, about = load(args.model)
    names = [f'{Path(image).stem}.png' for image in args.images]
    if len(set(names)) < len(names):
        fail('two of the images have the same name, their pictures would overwrite each other')
    try:
        args.out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f'cannot use {error.filename}: {error.strerror}')
    for index, path in enumerate(args.images):
        image = read(path)
        # A fixed size is what the model takes; a free one starts at 64.
        size = about['size'] or [max(64, length) for length in image.size[::-1]]
        pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)[None]
        # A file of a fixed batch gets the image as often.
        (logits,) = session.run(None, {'images': np.repeat(pixels, about['batch'] or 1, 0)})
        picture = overlay(image, logits[0], about) if about['task'] == 'segmentation' else caption(image, logits[0], about)
        picture.save(args.out_dir / names[index])
        print(f'{index + 1}/{len(names)} {args.out_dir / names[index]}')


def load(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    """A session, and what the file tells about itself."""
    if not path.is_file():
        fail(f'model {path} does not exist')
    try:
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    except Exception as error:  # onnxruntime's own types are many
        fail(f'{path} is no ONNX model: {str(error).splitlines()[0]}')
    if about.get('part') != 'model':
        fail(f'{path} gives no logits; export a segmentor or a classifier with tools/export.py')
    if about['activation'] != 'softmax':
        fail(f'{path} has classes that do not exclude each other; only those of a softmax can be drawn')
    return session, about


def read(path: str) -> Image.Image:
    """An RGB image, turned as its EXIF says."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                fail(f'image {path} has {image.width}x{image.height} pixels; make it smaller than {MAX_PIXELS:,} in all')
            return ImageOps.exif_transpose(image).convert('RGB')
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        fail(f'cannot read image {path}: {error}')


def overlay(image: Image.Image, logits: np.ndarray, about: dict) -> Image.Image:
    """The classes' colours over the image, and a line for each class that is there."""
    labels = logits.argmax(0)
    palette = np.array(about['palette'], np.uint8)
    colours = Image.fromarray(palette[labels]).resize(image.size, Image.Resampling.NEAREST)
    factor = max(1, 512 // max(image.size))
    picture = Image.blend(image, colours, 0.6).resize([factor * length for length in image.size])
    draw = ImageDraw.Draw(picture)
    for line, label in enumerate(np.unique(labels)):
        name, share = about['classes'][label], (labels == label).mean()
        draw.rectangle((4, 4 + 14 * line, 14, 14 + 14 * line), fill=tuple(palette[label].tolist()), outline='white')
        draw.text((18, 3 + 14 * line), f'{name}: {share:.0%}', fill='white', stroke_width=1, stroke_fill='black')
    return picture


def caption(image: Image.Image, logits: np.ndarray, about: dict) -> Image.Image:
    """The three likeliest classes under the image."""
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
    print(f'error: {message}', file=sys.stderr)
    sys.exit(1)


if __name__ == '__main__':
    main()
