"""Draw the effective receptive field of a config's backbone (Fig. 4), and print the area ratios of high contribution."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import mmcv
from mmengine.device import get_device
from mmengine.utils import track_iter_progress

from mmpelk.analysis.receptive_field import (
    SHARES,
    area_ratios,
    contribution_map,
    heat_map,
    load_images,
    without_pooling,
)
from mmpelk.apis.images import images_in
from mmpelk.apis.models import load_backbone
from mmpelk.datasets.digit_scenes import load_photos
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError
from mmpelk.utils.files import write_together

# The backward pass keeps every activation.
MAX_SIZE = 8192


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of mmseg, mmdet, or mmpretrain')
    parser.add_argument('checkpoint', nargs='?', help='checkpoint file; without one, the backbone is initialized as for training')
    parser.add_argument('--images', type=Path, help='folder of images; default: the two photographs of scikit-learn')
    parser.add_argument('--limit', type=int, default=50, help='maximum number of images; default: %(default)s')
    parser.add_argument(
        '--size', type=int, default=1024, help='height and width to which images are resized; default: %(default)s'
    )
    parser.add_argument('--out', type=Path, default=Path('receptive_field.png'), help='PNG to write; default: %(default)s')
    add_cfg_options(parser)
    args = parser.parse_args()
    if not 64 <= args.size <= MAX_SIZE:
        raise InputError(f'--size must lie between 64 and {MAX_SIZE}, got {args.size}')
    if args.out.suffix != '.png':
        raise InputError(f'--out must end in .png, got {args.out}')
    if args.limit < 1:
        raise InputError(f'--limit must be at least 1, got {args.limit}')
    if args.images and not args.images.is_dir():
        raise InputError(f'image folder {args.images} does not exist')
    return args


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config, args.cfg_options)
    backbone = load_backbone(cfg, args.checkpoint).to(get_device())
    backbone.eval()  # a separate statement, because eval() of mmpretrain's backbones returns None
    norm = cfg.model.get('data_preprocessor') or {}
    for name in ('mean', 'std'):
        if not isinstance(norm.get(name), (list, tuple)) or len(norm[name]) != 3:
            raise InputError(
                f'config {args.config} has {norm.get(name)!r} as model.data_preprocessor.{name}; expected three numbers'
            )
    images = images_in(args.images)[: args.limit] if args.images else load_photos()
    loaded = (image.to(get_device()) for image in load_images(track_iter_progress(images), args.size, norm.mean, norm.std))
    contribution = contribution_map(without_pooling(backbone), loaded)
    ratios = area_ratios(contribution)
    picture = cv2.imencode('.png', mmcv.rgb2bgr(heat_map(contribution)))[1].tobytes()
    text = json.dumps({str(share): ratio for share, ratio in ratios.items()})
    write_together({args.out: picture, args.out.with_suffix('.json'): text.encode()})
    print(f'\n{args.config}, {args.checkpoint or "untrained"}, {len(images)} images of {args.size}x{args.size}')
    print('area of the smallest centered square with a share of the contribution, divided by the area of the image:')
    print('  '.join(f'{share:.0%}: {ratios[share]:.1%}' for share in SHARES))
    print(f'heat map in {args.out}')


if __name__ == '__main__':
    run_tool(main)
