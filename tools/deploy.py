"""Fold a checkpoint for inference.

Each block then has one plain depthwise convolution, or with --keep-grid, the fast operator without norms.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.deployment import fold_checkpoint
from mmpelk.engine.command_line import add_cfg_options, check_outputs, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('out', type=Path, help='folded checkpoint to write, *.pth; its config is written beside it as *.py')
    parser.add_argument(
        '--keep-grid', action='store_true', help='keep grids and stripes; fold only norms, embeddings, and branches'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.out.suffix != '.pth':
        raise InputError(f'the checkpoint to write must end in .pth, got {args.out}')
    check_outputs([args.out, args.out.with_suffix('.py')], [args.config, args.checkpoint])
    print(fold_checkpoint(read_config(args.config, args.cfg_options), args.checkpoint, args.out, args.keep_grid))


if __name__ == '__main__':
    run_tool(main)
