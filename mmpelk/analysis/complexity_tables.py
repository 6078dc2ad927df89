"""Format our counts beside the paper's as text, Markdown, CSV, and JSON: Tables 2 to 6, and Figs. 2, 5, and 6."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import track_iter_progress

from mmpelk.models import PeLK
from mmpelk.ops import SharingGrid

from . import paper
from .complexity import Complexity, complexity
from .configs import packaged_config

DATA = {2: 'ADE20K, UperNet, 512x2048', 3: 'COCO, Cascade Mask R-CNN, 800x1280', 4: 'ImageNet-1K'}
FIG6_SIZES = range(7, 152, 8)


def count_as_text(count: Complexity, density: float) -> str:
    """Format the counts of one config.

    Args:
        count: The counts.
        density: The density with which they were counted.
    """
    lines = [
        f'parameters     {count.params / 1e6:10.2f} M, kept at density {density}: {count.kept_params / 1e6:10.2f} M',
        f'multiply-adds  {count.macs / 1e9:10.2f} G, kept at density {density}: {count.kept_macs / 1e9:10.2f} G',
        *(f'  {part:22} {macs / 1e9:10.3f} G' for part, macs in count.parts.items()),
    ]
    return '\n'.join(lines)


def count_rows(rows: Sequence[paper.Row]) -> list[dict]:
    """Count the models of Tables 2 to 4, and show the progress.

    Args:
        rows: Rows of the paper.

    Returns:
        The fields of each row and our counts: ``params_ours`` in millions and ``gmacs_ours`` in 10^9 at the row's density, and
        ``gmacs_dense``. They are None where a row has no config.
    """
    counted = []
    for row in track_iter_progress(rows):
        ours = dict(params_ours=None, gmacs_ours=None, gmacs_dense=None)
        if row.config:
            count = complexity(packaged_config(row.config), row.size, row.density)
            ours = dict(params_ours=count.kept_params / 1e6, gmacs_ours=count.kept_macs / 1e9, gmacs_dense=count.macs / 1e9)
        counted.append(dict(row._asdict(), size=f'{row.size[0]}x{row.size[1]}', **ours))
    return counted


def rows_as_text(rows: Sequence[dict]) -> str:
    """Format counted rows: the paper's numbers, ours, and the differences."""
    lines = [
        f'{"":8} {"":14} {"":9} {"parameters (M)":>24} {"multiply-adds (G)":>28} {"":>8}',
        f'{"":8} {"model":14} {"input":9} {"paper":>8} {"ours":>8} {"":>6} {"paper":>8} {"ours":>9} {"":>9} {"dense":>8}',
    ]
    for row in rows:
        start = f'Table {row["table"]}  {row["method"]:14} {row["size"]:9} {row["params"]:8}'
        if row['gmacs_ours'] is None:
            lines.append(f'{start} {"-":>8} {"":>6} {row["gmacs"]:8} {"-":>9}    not built here')
            continue
        more, off = row['params_ours'] - row['params'], 100 * (row['gmacs_ours'] / row['gmacs'] - 1)
        lines.append(
            f'{start} {row["params_ours"]:8.2f} {more:+6.2f} {row["gmacs"]:8} {row["gmacs_ours"]:9.2f} {off:+8.2f}% '
            f'{row["gmacs_dense"]:8.1f}  {paper.explanation(row["table"], row["method"], row["size"])}'
        )
    return '\n'.join(lines)


def rows_as_markdown(rows: Sequence[dict]) -> str:
    """Format counted rows as a page with a table for each table of the paper."""
    lines = ['# Tables 2, 3 and 4', '', '`python tools/complexity.py --out docs/complexity` writes this page. ']
    lines[-1] += '"Kept" counts the weights that remain at 40% sparsity.'
    for number, data in DATA.items():
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


def write_rows(rows: Sequence[dict], folder: Path) -> None:
    """Write counted rows as ``complexity.csv``, ``complexity.md``, and ``complexity.json`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'complexity.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / 'complexity.md').write_text(rows_as_markdown(rows))
    (folder / 'complexity.json').write_text(json.dumps(rows, indent=1))


def grids_as_text() -> str:
    """Format Tables 5 and 6 and Fig. 2, which depend only on the sharing grids: the paper's numbers and ours."""
    lines = ['Table 5, weights of a 33x33 kernel: paper, ours']
    for half, ratio, _ in paper.TABLE5:
        grid = SharingGrid.from_half(half)
        lines.append(f'  {ratio:5.2f} {(grid.weight_size / grid.kernel_size) ** 2:7.4f}  {list(half)}')
    lines.append("Table 6, the center's share of a 51x51 kernel in percent: paper, ours")
    for center, half, percent, _ in paper.TABLE6:
        note = '' if SharingGrid.peripheral(51, center).half == half else ' not the default grid'
        lines.append(f'  {percent:5.2f} {100 * (center / 51) ** 2:7.4f}  {list(half)}{note}')
    lines += [
        'Fig. 2, parameters of a convolution, kernel 51 over 7: paper, ours',
        f'  dense  {paper.FIG2["dense"]:5} {51**2 / 7**2:7.3f}',
        f'  stripe {paper.FIG2["stripe"]:5} {51 / 7:7.3f}',
    ]
    return '\n'.join(lines)


def count_breakdown() -> dict[str, int]:
    """Count the multiply-adds of Fig. 5 by part, for PeLK-T in UperNet at 2048x512."""
    return complexity(packaged_config('upernet_pelk_t_ade20k'), (512, 2048)).parts


def breakdown_as_text(parts: dict[str, int]) -> str:
    """Format Fig. 5: each part's share of the backbone's multiply-adds in the paper and in our count."""
    backbone = sum(parts[part] for part in ('stem and downsampling', 'large kernels', 'MLP', 'other'))
    sizes = f'{backbone / 1e9:.1f} G multiply-adds in the backbone, {parts["head"] / 1e9:.1f} G in the head'
    lines = [f'Fig. 5, PeLK-T in UperNet at 2048x512, dense, {sizes}: share of the backbone, paper, ours']
    for part, macs in parts.items():
        if part not in ('head', 'other'):
            printed = f'{paper.FIG5[part]:8.2%}' if part in paper.FIG5 else f'{"":>8}'
            lines.append(f'  {part:22} {printed} {macs / backbone:9.4%}')
    return '\n'.join(lines)


def count_parameters_by_kernel_size() -> dict[str, dict[int, float]]:
    """Count the parameters of Fig. 6, for ConvNeXt-T with every kernel replaced.

    Returns:
        Millions of parameters by kernel size, for 'dense' and 'peripheral' kernels.
    """
    arch = PeLK.arch_settings['tiny']
    blocks = list(zip(arch['depths'], arch['channels'], strict=True))
    convnext = complexity(packaged_config('baselines/convnext_t_in1k'), (224, 224)).params
    others = convnext - sum(depth * width * 7**2 for depth, width in blocks)

    def millions(weight_size: int) -> float:
        return (others + sum(depth * width * weight_size**2 for depth, width in blocks)) / 1e6

    return dict(
        dense={k: millions(k) for k in FIG6_SIZES},
        peripheral={k: millions(SharingGrid.peripheral(k).weight_size) for k in FIG6_SIZES},
    )
