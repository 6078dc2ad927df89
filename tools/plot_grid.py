"""Draw sharing grids. All positions of a large kernel in one rectangle share the same weight."""

from __future__ import annotations

import argparse

from mmpelk.analysis.plots import draw_grids
from mmpelk.engine.command_line import run_tool
from mmpelk.ops import SharingGrid
from mmpelk.utils.errors import InputError, argument_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kernels', type=int, nargs='+', default=[13, 51, 101], help='kernel sizes; default: 13 51 101')
    parser.add_argument('--centers', type=int, nargs='+', default=[5, 5, 7], help='their center sizes; default: 5 5 7')
    parser.add_argument('--out', default='sharing_grids.png', help='PNG to write; default: %(default)s')
    args = parser.parse_args()
    if len(args.kernels) != len(args.centers):
        raise InputError(
            f'--kernels and --centers must have the same number of values, got {len(args.kernels)} and {len(args.centers)}'
        )
    with argument_errors():
        grids = [SharingGrid.peripheral(kernel, center) for kernel, center in zip(args.kernels, args.centers, strict=True)]
    draw_grids(grids, args.out)
    print(f'{len(grids)} grids in {args.out}')


if __name__ == '__main__':
    run_tool(main)
