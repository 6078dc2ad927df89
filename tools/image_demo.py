"""Draw the predictions of a model on images, folders, and videos: label maps, boxes with masks, or classes."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.apis import init_model, predictions
from mmpelk.apis.drawing import draw_sheet
from mmpelk.apis.images import find_sources
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('inputs', nargs='+', metavar='input', help='image file, folder of images, or video')
    parser.add_argument('--out-dir', type=Path, default=Path('demo_out'), help='folder for the pictures; default: %(default)s')
    parser.add_argument('--grid', action='store_true', help='also draw the pictures of all images on one sheet, grid.png')
    parser.add_argument('--device', help='such as cpu or cuda:0; default: the GPU if there is one')
    add_cfg_options(parser)
    args = parser.parse_args()
    model = init_model(read_config(args.config, args.cfg_options), args.checkpoint, args.device)
    sources = find_sources(args.inputs)
    names = [source.picture_name for source in sources if not source.is_video]
    if args.grid and 'grid.png' in names:
        raise InputError('the sheet would overwrite the picture of the input named grid; rename the input or leave out --grid')
    count = sum(1 for _ in predictions(model, sources, args.out_dir))
    if args.grid and names:
        draw_sheet([args.out_dir / name for name in names], args.out_dir / 'grid.png')
    print(f'\n{count} predictions in {args.out_dir}')


if __name__ == '__main__':
    run_tool(main)
