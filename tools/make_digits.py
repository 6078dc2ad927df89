"""Generate the digits dataset for classification: one handwritten digit per image, in the folder layout of mmpretrain."""

from __future__ import annotations

import argparse

from mmpelk.datasets import make_digits
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import argument_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/digits', help='folder to create; default: %(default)s')
    parser.add_argument('--size', type=int, default=64, help='height and width of the images; default: %(default)s')
    parser.add_argument('--copies', type=int, default=2, help='number of images of each training digit; default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='random seed, from 0 to 2**32 - 1; default: %(default)s')
    args = parser.parse_args()
    with argument_errors():
        root = make_digits(args.root, args.size, args.copies, args.seed)
    print(f'digits in {root}')


if __name__ == '__main__':
    run_tool(main)
