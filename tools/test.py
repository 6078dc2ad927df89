"""Test a checkpoint with a config of mmseg, mmdet, or mmpretrain, and print the metrics."""

from __future__ import annotations

import argparse

from mmpelk.engine.command_line import add_runner_arguments, run_tool
from mmpelk.engine.config import load_config
from mmpelk.engine.testing import test


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--tta', action='store_true', help='test with the tta_model and tta_pipeline of the config')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='draw the ground truth and the prediction of each image into this folder'
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='where to write predictions: a folder of label maps for mmseg, a .pkl file for mmdet and mmpretrain',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    test(load_config(args), args.checkpoint, args.tta, args.show_dir, args.out)


if __name__ == '__main__':
    run_tool(main)
