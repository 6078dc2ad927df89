"""Train a model with a config of mmseg, mmdet, or mmpretrain."""

from __future__ import annotations

import argparse

from mmpelk.engine.command_line import add_runner_arguments, run_tool
from mmpelk.engine.config import load_config
from mmpelk.engine.training import train


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_runner_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a value, from the latest one in the work dir',
    )
    parser.add_argument(
        '--pretrained',
        metavar='CHECKPOINT',
        help='initialize the backbone from this checkpoint: its backbone.* weights, or a ConvNeXt of a package that '
        "tools/convert_checkpoint.py knows. A classifier's head is loaded too if it fits",
    )
    parser.add_argument('--amp', action='store_true', help='train with mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size, instead of accumulating gradients to total_batch_size',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    train(load_config(args), args.resume, args.pretrained, args.amp, args.auto_scale_lr)


if __name__ == '__main__':
    run_tool(main)
