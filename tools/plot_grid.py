"""Draw sharing grids: which positions of a large kernel read the same weight."""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
import numpy as np

from mmpelk.engine.command_line import run_tool
from mmpelk.ops import SharingGrid
from mmpelk.utils.errors import InputError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kernels', type=int, nargs='+', default=[13, 51, 101], help='kernel sizes; default: 13 51 101')
    parser.add_argument('--centers', type=int, nargs='+', default=[5, 5, 7], help='their centres; default: 5 5 7')
    parser.add_argument('--out', default='sharing_grids.png', help='PNG to write; default: %(default)s')
    args = parser.parse_args()
    if len(args.kernels) != len(args.centers):
        raise InputError(f'--kernels and --centers must be as many, got {len(args.kernels)} and {len(args.centers)}')
    try:
        grids = [SharingGrid.peripheral(kernel, center) for kernel, center in zip(args.kernels, args.centers, strict=True)]
    except ValueError as error:
        raise InputError(str(error)) from error
    figure, axes = plt.subplots(1, len(grids), figsize=(4.2 * len(grids), 4.6), layout='constrained', squeeze=False)
    for ax, grid in zip(axes[0], grids, strict=True):
        edges = np.array(grid.edges) - grid.kernel_size / 2
        ax.pcolormesh(
            edges, edges, np.log2(grid.areas().numpy()), cmap='YlGnBu_r', edgecolors='white', linewidth=0.6, vmin=0, vmax=8
        )
        k, size = grid.kernel_size, grid.weight_size
        ax.set(title=f'{k}x{k} kernel, {size}x{size} weights\n{list(grid.half)}', aspect='equal', xlim=(-51, 51), ylim=(-51, 51))
        ax.axis('off')
    figure.savefig(args.out, dpi=110, bbox_inches='tight')
    print(f'{len(grids)} grids in {args.out}')


if __name__ == '__main__':
    run_tool(main)
