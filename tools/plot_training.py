"""Draw the losses and validation metrics of a training run over the iterations, as a PNG."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpelk.analysis.plots import draw_training
from mmpelk.analysis.training_log import read_scalars
from mmpelk.engine.command_line import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work dir of tools/train.py')
    parser.add_argument('--out', type=Path, help='PNG to write; default: curves.png in the work dir')
    args = parser.parse_args()
    training, validation = read_scalars(args.work_dir)
    out = args.out or args.work_dir / 'curves.png'
    draw_training(training, validation, out)
    print(f'curves in {out}')


if __name__ == '__main__':
    run_tool(main)
