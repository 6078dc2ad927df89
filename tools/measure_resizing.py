"""Measure how resizing the kernels of a trained classifier changes its outputs, compared with randomizing their periphery."""

from __future__ import annotations

import argparse

from mmpelk.analysis.resizing_effect import measure_checkpoint
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of a classifier with a PeLK')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--to', nargs=4, type=int, default=[101, 69, 67, 13], metavar='K', help='new kernel sizes; default: %(default)s'
    )
    parser.add_argument('--center-size', type=int, default=7, help='center size of the new grids; default: %(default)s')
    add_cfg_options(parser)
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    print('\n' + measure_checkpoint(cfg, args.checkpoint, args.to, args.center_size))


if __name__ == '__main__':
    run_tool(main)
