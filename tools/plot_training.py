"""Draw the curves of a training run: losses, learning rate and validation metrics over the iterations, as a PNG."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import InputError


def read_scalars(work_dir: Path) -> tuple[dict[int, dict], dict[int, dict]]:
    """Training and validation records by iteration, over all runs in the folder; a resumed run overrules what it repeats."""
    training, validation = {}, {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            (training if 'loss' in record else validation)[record['step']] = record
    return training, validation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='the work dir of tools/train.py')
    parser.add_argument('--out', type=Path, help='PNG to write; default: curves.png in the work dir')
    args = parser.parse_args()
    training, validation = read_scalars(args.work_dir)
    if not training:
        raise InputError(f'{args.work_dir} holds no training log (*/vis_data/scalars.json)')

    figure, (loss_axes, metric_axes) = plt.subplots(1, 2, figsize=(11, 4), layout='constrained')
    steps = sorted(training)
    for name in sorted({key for record in training.values() for key in record if 'loss' in key}):
        points = [(step, training[step][name]) for step in steps if name in training[step]]
        loss_axes.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == 'loss' else 1)
    loss_axes.set(xlabel='iteration', ylabel='loss', ylim=(0, None), title='training')
    loss_axes.legend()
    metrics = ('mIoU', 'mAcc', 'aAcc', 'coco/bbox_mAP', 'coco/segm_mAP', 'accuracy/top1', 'accuracy/top5')
    for name in metrics:
        points = [(step, record[name]) for step, record in sorted(validation.items()) if name in record]
        if points:
            metric_axes.plot(*zip(*points, strict=True), marker='o', label=f'{name}: {points[-1][1]:.4g} at the end')
    metric_axes.set(xlabel='iteration', title='validation')
    if metric_axes.lines:
        metric_axes.legend()
    for axes in (loss_axes, metric_axes):
        axes.grid(alpha=0.3)
    out = args.out or args.work_dir / 'curves.png'
    figure.savefig(out, dpi=120)
    print(f'curves in {out}')


if __name__ == '__main__':
    run_tool(main)
