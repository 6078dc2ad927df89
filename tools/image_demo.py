"""Draw a model's predictions on images: label maps, boxes with masks, or a class, whatever the config is for."""

from __future__ import annotations

import argparse
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import DictAction
from mmengine.utils import track_iter_progress

from mmpelk.errors import InputError, one_line_errors
from mmpelk.inference import draw, load_model, predict
from mmpelk.launch import read_config


def grid_of(pictures: list[np.ndarray]) -> np.ndarray:
    """All pictures on one sheet, about as wide as high, each within the size of the first."""
    height, width = pictures[0].shape[:2]
    columns = int(np.ceil(len(pictures) ** 0.5))
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, picture in enumerate(pictures):
        small = mmcv.imrescale(picture, (height, width))
        top, left = index // columns * height, index % columns * width
        sheet[top : top + small.shape[0], left : left + small.shape[1]] = small
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', metavar='image', help='image files')
    parser.add_argument('--out-dir', type=Path, default=Path('demo_out'), help='folder for the pictures; default: %(default)s')
    parser.add_argument('--grid', action='store_true', help='also write all pictures on one sheet, grid.png')
    parser.add_argument('--device', help='cpu, cuda:0, ...; default: the GPU if there is one')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='settings that override the config, as key=value')
    args = parser.parse_args()
    names = [f'{Path(image).stem}.png' for image in args.images]
    if len(set(names)) < len(names):
        raise InputError('two of the images have the same name, their pictures would overwrite each other')
    cfg = read_config(args.config, args.cfg_options)
    model = load_model(cfg, args.checkpoint, args.device)
    pictures = []
    for image in track_iter_progress(args.images):
        pictures.append(draw(model, cfg, image, predict(model, cfg, image)))
    if args.grid:
        names.append('grid.png')
        pictures.append(grid_of(pictures))
    for name, picture in zip(names, pictures):
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(args.out_dir / name))
    print(f'\n{len(pictures)} pictures in {args.out_dir}')


if __name__ == '__main__':
    with one_line_errors():
        main()
