"""Resize the kernels and positional embeddings of a PeLK checkpoint to other kernel sizes or grids."""

from __future__ import annotations

import argparse

from mmpelk.checkpoints.resizing import resize_checkpoint
from mmpelk.engine.command_line import check_outputs, run_tool
from mmpelk.ops import SharingGrid
from mmpelk.ops.resizing import RESIZE_MODES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('source', help='checkpoint to read')
    parser.add_argument('out', help='checkpoint to write, with weights and meta but without the optimizer')
    parser.add_argument('--kernel-sizes', nargs=4, type=int, required=True, metavar='K', help='new kernel size of each stage')
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument('--center-size', type=int, default=5, help='center size of the new default grids; default: %(default)s')
    grid.add_argument(
        '--outward',
        action='store_true',
        help='keep all cells and add new ones outside; with --mode extend, the outputs stay the same',
    )
    parser.add_argument('--mode', choices=RESIZE_MODES, default='extend', help='default: %(default)s')
    args = parser.parse_args()
    check_outputs([args.out], [args.source])

    def new_grid(stage: int, old: SharingGrid) -> SharingGrid:
        size = args.kernel_sizes[stage]
        return old.extended(size) if args.outward else SharingGrid.peripheral(size, args.center_size)

    print('\n'.join(resize_checkpoint(args.source, args.out, new_grid, args.mode)))
    print(f'written to {args.out}')


if __name__ == '__main__':
    run_tool(main)
