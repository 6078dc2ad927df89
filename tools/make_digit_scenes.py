"""Generate the digit scenes dataset: a folder in the layout of ADE20K, with instance annotations in the format of COCO."""

from __future__ import annotations

import argparse

from mmpelk.datasets import make_digit_scenes
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import argument_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/digit_scenes', help='folder to create; default: %(default)s')
    parser.add_argument('--num-training', type=int, default=800, help='number of training scenes; default: %(default)s')
    parser.add_argument('--num-validation', type=int, default=120, help='number of validation scenes; default: %(default)s')
    parser.add_argument('--size', type=int, default=128, help='height and width of the scenes; default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='random seed, from 0 to 2**32 - 1; default: %(default)s')
    args = parser.parse_args()
    with argument_errors():
        root = make_digit_scenes(args.root, args.num_training, args.num_validation, args.size, args.seed)
    print(f'digit scenes: {args.num_training} training, {args.num_validation} validation, in {root}')


if __name__ == '__main__':
    run_tool(main)
