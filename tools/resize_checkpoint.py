"""Resize the kernels and positional embeddings of a PeLK checkpoint to other kernel sizes or grids."""

from __future__ import annotations

import argparse

from mmpelk.checkpoints import model_weights, read_checkpoint, write_checkpoint
from mmpelk.engine.command_line import check_outputs, run_tool
from mmpelk.models.state_dict import resize_stages
from mmpelk.ops import SharingGrid
from mmpelk.ops.resizing import RESIZE_MODES
from mmpelk.utils.errors import InputError


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
    checkpoint = read_checkpoint(args.source)
    weights = model_weights(checkpoint)
    kernels = [name for name in weights if name.endswith('token_mixer.large.weight')]
    if not kernels:
        raise InputError(f'checkpoint {args.source} has no kernels of a PeLK (stages.*.*.token_mixer.large.weight)')
    for name in kernels:
        half_name = name.replace('.weight', '.half_grid')
        if half_name not in weights:
            raise InputError(f'checkpoint {args.source} has no {half_name}, which defines the grid of {name}')

    def new_grid(index: int, old: SharingGrid) -> SharingGrid:
        size = args.kernel_sizes[index]
        return old.extended(size) if args.outward else SharingGrid.peripheral(size, args.center_size)

    try:
        stages = resize_stages(weights, new_grid, args.mode)
    except InputError as error:
        raise InputError(f'checkpoint {args.source}: {error}') from error
    write_checkpoint(dict(state_dict=weights, meta=checkpoint.get('meta', {})), args.out)
    for name, (old, new) in stages.items():
        sizes = f'{old.kernel_size}x{old.kernel_size} resized to {new.kernel_size}x{new.kernel_size}'
        print(f'{name}*: kernels {sizes}, half grid {list(old.half)} to {list(new.half)}, mode {args.mode!r}')
    print(f'written to {args.out}')


if __name__ == '__main__':
    run_tool(main)
