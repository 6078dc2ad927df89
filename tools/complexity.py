"""Parameters and multiply-adds: all rows of the paper's Tables 2 to 6 and Figs. 2, 5, 6 beside ours, or one config of yours."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import matplotlib.pyplot as plt
from mmengine.logging import MMLogger
from mmengine.utils import track_iter_progress

from mmpelk.analysis import paper
from mmpelk.analysis.complexity import complexity
from mmpelk.engine.command_line import add_cfg_options, run_tool
from mmpelk.engine.config import read_config
from mmpelk.models import PeLK
from mmpelk.ops import SharingGrid
from mmpelk.utils.errors import InputError

CONFIGS = Path(__file__).parents[1] / 'configs'
FIG6_SIZES = range(7, 152, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', nargs='?', help='count this config alone')
    parser.add_argument('--size', nargs=2, type=int, default=(224, 224), metavar=('H', 'W'), help='input of that config')
    parser.add_argument('--density', type=float, default=1.0, help="share of that config's 2-D and 4-D weights that are kept")
    add_cfg_options(parser)
    parser.add_argument('--out', type=Path, help='folder for tables (CSV, JSON) and pictures')
    args = parser.parse_args()
    if not 0 < args.density <= 1:
        raise InputError(f'--density must lie in (0, 1], got {args.density}')
    if min(args.size) < 32:
        raise InputError(f'--size must be at least 32 32, got {args.size[0]} {args.size[1]}')
    if args.config and args.out:
        raise InputError('--out is for the tables of all models; leave it out to count one config')
    MMLogger.get_instance('complexity', log_level='ERROR')
    if args.config:
        print_config(args)
        return
    rows = count_tables()
    print_tables(rows)
    print_grids()
    breakdown = complexity(read_config(str(CONFIGS / 'upernet_pelk_t_ade20k.py')), (512, 2048)).parts
    print_breakdown(breakdown)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        with open(args.out / 'complexity.csv', 'w', newline='') as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
        (args.out / 'complexity.md').write_text(as_markdown(rows))
        (args.out / 'complexity.json').write_text(json.dumps(rows, indent=1))
        draw_breakdown(breakdown, args.out / 'fig5.png')
        draw_parameters(args.out / 'fig6.png')
        print(f'\ntables and pictures in {args.out}')


def print_config(args: argparse.Namespace) -> None:
    """One config's counts."""
    count = complexity(read_config(args.config, args.cfg_options), tuple(args.size), args.density)
    print(f'{args.config} at {args.size[0]}x{args.size[1]}')
    print(f'parameters     {count.params / 1e6:10.2f} M, kept at density {args.density}: {count.kept_params / 1e6:10.2f} M')
    print(f'multiply-adds  {count.macs / 1e9:10.2f} G, kept at density {args.density}: {count.kept_macs / 1e9:10.2f} G')
    for part, macs in count.parts.items():
        print(f'  {part:22} {macs / 1e9:10.3f} G')


def count_tables() -> list[dict]:
    """Every row of Tables 2 to 4, with our counts where we have the model."""
    rows = []
    for row in track_iter_progress(paper.ROWS):
        ours = dict(params_ours=None, gmacs_ours=None, gmacs_dense=None)
        if row.config:
            count = complexity(read_config(str(CONFIGS / f'{row.config}.py')), row.size, row.density)
            ours = dict(params_ours=count.kept_params / 1e6, gmacs_ours=count.kept_macs / 1e9, gmacs_dense=count.macs / 1e9)
        rows.append(dict(row._asdict(), size=f'{row.size[0]}x{row.size[1]}', **ours))
    return rows


def print_tables(rows: list[dict]) -> None:
    """Paper, ours, difference."""
    print(f'\n{"":8} {"":14} {"":9} {"parameters (M)":>24} {"multiply-adds (G)":>28} {"":>8}')
    print(f'{"":8} {"model":14} {"input":9} {"paper":>8} {"ours":>8} {"":>6} {"paper":>8} {"ours":>9} {"":>9} {"dense":>8}')
    for row in rows:
        start = f'Table {row["table"]}  {row["method"]:14} {row["size"]:9} {row["params"]:8}'
        if row['gmacs_ours'] is None:
            print(f'{start} {"-":>8} {"":>6} {row["gmacs"]:8} {"-":>9}    not built here')
            continue
        more, off = row['params_ours'] - row['params'], 100 * (row['gmacs_ours'] / row['gmacs'] - 1)
        print(
            f'{start} {row["params_ours"]:8.2f} {more:+6.2f} {row["gmacs"]:8} {row["gmacs_ours"]:9.2f} {off:+8.2f}% '
            f'{row["gmacs_dense"]:8.1f}  {paper.explanation(row["table"], row["method"], row["size"])}'
        )


def as_markdown(rows: list[dict]) -> str:
    """The tables, with each config."""
    lines = ['# Tables 2, 3 and 4', '', '`python tools/complexity.py --out docs/complexity` writes this page. ']
    lines[-1] += '"Kept" counts the weights that are left at 40% sparsity.'
    for number, data in ((2, 'ADE20K, UperNet, 512x2048'), (3, 'COCO, Cascade Mask R-CNN, 800x1280'), (4, 'ImageNet-1K')):
        lines += ['', f'## Table {number}: {data}', '']
        lines += [
            '| model | config | input | params (M), paper | ours, kept | G multiply-adds, paper | ours, kept | dense | paper | ours | |'
        ]
        lines += ['|---' * 11 + '|']
        for row in rows:
            if row['table'] != number:
                continue
            config = f'`configs/{row["config"]}.py`' if row['config'] else ''
            counts = ['not built here', row['gmacs'], '', '']
            if row['config']:
                counts = [f'{row["params_ours"]:.2f}', row['gmacs'], f'{row["gmacs_ours"]:.2f}', f'{row["gmacs_dense"]:.1f}']
            note = paper.explanation(row['table'], row['method'], row['size'])
            ours = 'not trained' if row['config'] else ''
            cells = [row['method'], config, row['size'], row['params'], *counts, row['quality'], ours, note]
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines) + '\n'


def print_grids() -> None:
    """Tables 5 and 6, Fig. 2."""
    print('\nTable 5, weights of a 33x33 kernel: paper, ours')
    for half, ratio, _ in paper.TABLE5:
        grid = SharingGrid.from_half(half)
        print(f'  {ratio:5.2f} {(grid.weight_size / grid.kernel_size) ** 2:7.4f}  {list(half)}')
    print("Table 6, the centre's share of a 51x51 kernel in percent: paper, ours")
    for center, half, percent, _ in paper.TABLE6:
        default = SharingGrid.peripheral(51, center)
        print(
            f'  {percent:5.2f} {100 * (center / 51) ** 2:7.4f}  {list(half)}{"" if default.half == half else " not the default grid"}'
        )
    print('Fig. 2, parameters of a convolution, kernel 51 over 7: paper, ours')
    print(f'  dense  {paper.FIG2["dense"]:5} {51**2 / 7**2:7.3f}\n  stripe {paper.FIG2["stripe"]:5} {51 / 7:7.3f}')


def print_breakdown(parts: dict[str, int]) -> None:
    """Fig. 5: shares of the backbone."""
    backbone = sum(parts[part] for part in ('stem and downsampling', 'large kernels', 'MLP', 'other'))
    sizes = f'{backbone / 1e9:.1f} G multiply-adds in the backbone, {parts["head"] / 1e9:.1f} G in the head'
    print(f'Fig. 5, PeLK-T in UperNet at 2048x512, dense, {sizes}: share of the backbone, paper, ours')
    for part, macs in parts.items():
        if part not in ('head', 'other'):
            printed = f'{paper.FIG5[part]:8.2%}' if part in paper.FIG5 else f'{"":>8}'
            print(f'  {part:22} {printed} {macs / backbone:9.4%}')


def draw_breakdown(parts: dict[str, int], path: Path) -> None:
    """Fig. 5 as bars."""
    shown = {part: parts[part] / 1e9 for part in ('stem and downsampling', 'large kernels', 'h', 'MLP')}
    figure, axes = plt.subplots(figsize=(7, 2.6), layout='constrained')
    bars = axes.barh(list(shown), list(shown.values()), color=['#8aa', '#d66', '#e90', '#68a'])
    axes.bar_label(bars, [f'{value:.3g} G, {value / sum(shown.values()):.2%}' for value in shown.values()], padding=4)
    axes.set(
        xlabel='10$^9$ multiply-adds', title='PeLK-T in UperNet at 2048x512: the backbone', xlim=(0, 1.3 * max(shown.values()))
    )
    axes.invert_yaxis()
    figure.savefig(path, dpi=120)


def draw_parameters(path: Path) -> None:
    """Fig. 6: parameters of ConvNeXt-T with every kernel replaced."""
    arch = PeLK.arch_settings['tiny']
    blocks = [(depth, width) for depth, width in zip(arch['depths'], arch['channels'], strict=True)]
    convnext = complexity(read_config(str(CONFIGS / 'baselines/convnext_t_in1k.py')), (224, 224)).params
    others = convnext - sum(depth * width * 7**2 for depth, width in blocks)

    def millions(weight_size: int) -> float:
        return (others + sum(depth * width * weight_size**2 for depth, width in blocks)) / 1e6

    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    axes.plot(FIG6_SIZES, [millions(k) for k in FIG6_SIZES], marker='o', markersize=3, label='dense')
    shared = [millions(SharingGrid.peripheral(k).weight_size) for k in FIG6_SIZES]
    axes.plot(FIG6_SIZES, shared, marker='o', markersize=3, label='peripheral')
    axes.set(xlabel='kernel size', ylabel='parameters (M)', title='ConvNeXt-T with all kernels replaced', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    run_tool(main)
