"""Train kernels of different forms and sizes under equal budgets on small data, and compare them. Interrupted runs can be resumed.

train_evidence.py digits   the kernel forms of Table 1 and the grids of Table 5 on single digits, beside the paper's results. It shows
                           that each form trains, not which one is better on ImageNet.
train_evidence.py reach    kernel sizes and forms on keyed rows, where the label of a pixel can be far away; with --ablations, also h, the
                           center, the grids of Table 5, and the small branch, on the first size
train_evidence.py growing  ways to continue training a ConvNeXt with 7x7 kernels on keyed rows: unchanged, and with grown kernels
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.analysis import growing_comparison as growing
from mmpelk.analysis import kernel_comparison as digits
from mmpelk.analysis import reach_comparison as reach
from mmpelk.analysis.reach_pictures import draw_comparison
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    on_digits, rows, ways = (commands.add_parser(name) for name in ('digits', 'reach', 'growing'))
    for command, folder in ((on_digits, 'evidence'), (rows, 'evidence_reach'), (ways, 'evidence_growing')):
        command.add_argument('--seeds', type=int, default=3, help='number of runs of each variant; default: %(default)s')
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs', folder), help='default: %(default)s')
    on_digits.add_argument('--epochs', type=int, default=10, help='default: %(default)s')
    rows.add_argument('--iterations', type=int, default=120, help='default: %(default)s')
    rows.add_argument('--sizes', type=int, nargs='+', default=[128, 96, 64], help='heights of the images; default: 128 96 64')
    rows.add_argument('--variants', nargs='+', default=list(reach.VARIANTS), choices=list(reach.VARIANTS), help='default: all')
    rows.add_argument('--ablations', action='store_true', help='train the ablations too, on images of the first size')
    args = parser.parse_args()
    if args.seeds < 1:
        raise InputError(f'--seeds must be at least 1, got {args.seeds}')
    if args.command == 'digits' and args.epochs < 2:
        raise InputError(f'--epochs must be at least 2, got {args.epochs}')
    if args.command == 'reach' and args.iterations < 10:
        raise InputError(f'--iterations must be at least 10, got {args.iterations}')
    if args.command == 'reach' and min(args.sizes) < 64:
        raise InputError(f'--sizes must be at least 64, got {min(args.sizes)}')
    return args


def main() -> None:
    args = parse_args()
    if args.command == 'digits':
        print(digits.compare(args.seeds, args.epochs, args.work_dir))
    elif args.command == 'growing':
        print(growing.compare(args.seeds, args.work_dir))
    else:
        results, tables = reach.compare(args.sizes, args.variants, args.ablations, args.seeds, args.iterations, args.work_dir)
        print(tables)
        draw_comparison(results, args.sizes, args.variants, args.seeds, args.iterations, args.work_dir)
        print(f'pictures in {args.work_dir}')


if __name__ == '__main__':
    run_tool(main)
