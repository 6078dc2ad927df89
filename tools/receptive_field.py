"""Draw the effective receptive field of a config's backbone (Fig. 4), and print the area ratios of high contribution."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.analysis.receptive_field import measure_receptive_field
from mmpelk.apis.images import images_in
from mmpelk.datasets.digit_scenes import load_photos
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError

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
    images = images_in(args.images)[: args.limit] if args.images else load_photos()
    ratios = measure_receptive_field(cfg, args.checkpoint, images, args.size, args.out)
    print(f'\n{args.config}, {args.checkpoint or "untrained"}, {len(images)} images of {args.size}x{args.size}')
    print('area of the smallest centered square with a share of the contribution, divided by the area of the image:')
    print('  '.join(f'{share:.0%}: {ratio:.1%}' for share, ratio in ratios.items()))
    print(f'heat map in {args.out}')


if __name__ == '__main__':
    run_tool(main)
