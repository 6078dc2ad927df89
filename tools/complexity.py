"""Count parameters and multiply-adds: every row of the paper's Tables 2 to 6 and Figs. 2, 5, and 6, or one config of your own."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmengine.logging import MMLogger

from mmpelk.analysis import complexity_tables as tables
from mmpelk.analysis import paper
from mmpelk.analysis.complexity import complexity
from mmpelk.analysis.plots import draw_breakdown, draw_parameters
from mmpelk.engine.command_line import add_cfg_options, check_outputs, run_tool
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='count only this config')
    parser.add_argument('--size', nargs=2, type=int, default=(224, 224), metavar=('H', 'W'), help='input size for the config')
    parser.add_argument(
        '--density', type=float, default=1.0, help='fraction of the 2-D and 4-D weights of the config that are kept'
    )
    add_cfg_options(parser)
    parser.add_argument('--out', type=Path, help='folder for the tables (Markdown, CSV, JSON) and plots')
    args = parser.parse_args()
    if not 0 < args.density <= 1:
        raise InputError(f'--density must lie in (0, 1], got {args.density}')
    if min(args.size) < 32:
        raise InputError(f'--size must be at least 32 32, got {args.size[0]} {args.size[1]}')
    if args.config and args.out:
        raise InputError('--out writes the tables of all models; leave it out to count one config')
    if args.out:
        check_outputs([args.out / 'table.md'], [])
    return args


def main() -> None:
    args = parse_args()
    MMLogger.get_instance('complexity', log_level='ERROR')
    if args.config:
        count = complexity(read_config(args.config, args.cfg_options), tuple(args.size), args.density)
        print(f'{args.config} at {args.size[0]}x{args.size[1]}')
        print(tables.count_as_text(count, args.density))
        return
    rows = tables.count_rows(paper.ROWS)
    breakdown = tables.count_breakdown()
    print('\n' + tables.rows_as_text(rows))
    print('\n' + tables.grids_as_text())
    print(tables.breakdown_as_text(breakdown))
    if args.out:
        tables.write_rows(rows, args.out)
        draw_breakdown(breakdown, args.out / 'fig5.png')
        draw_parameters(tables.count_parameters_by_kernel_size(), args.out / 'fig6.png')
        print(f'\ntables and plots in {args.out}')


if __name__ == '__main__':
    run_tool(main)
