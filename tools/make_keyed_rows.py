"""Generate the keyed rows dataset, in which the label of a glyph is the color of a block far to its left, in the layout of ADE20K."""

from __future__ import annotations

import argparse

from mmpelk.datasets import make_keyed_rows
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import argument_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('root', nargs='?', default='data/keyed_rows', help='folder to create; default: %(default)s')
    parser.add_argument('--num-training', type=int, default=800, help='number of training scenes; default: %(default)s')
    parser.add_argument('--num-validation', type=int, default=64, help='number of validation scenes; default: %(default)s')
    parser.add_argument('--size', type=int, default=128, help='height and width of the scenes; default: %(default)s')
    parser.add_argument('--rows', type=int, default=6, help='number of rows of a scene; default: %(default)s')
    parser.add_argument('--jitter', type=int, default=2, help='maximum vertical offset of glyphs in pixels; default: %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='random seed; default: %(default)s')
    args = parser.parse_args()
    with argument_errors():
        root = make_keyed_rows(args.root, args.num_training, args.num_validation, args.size, args.rows, args.jitter, args.seed)
    print(f'keyed rows: {args.num_training} training, {args.num_validation} validation, in {root}')


if __name__ == '__main__':
    run_tool(main)
