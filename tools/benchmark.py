"""Time the operator, models, or training steps and their baselines, interleaved in one process, or measure memory.

benchmark.py op      the peripheral convolution with all backends and memory layouts, F.conv2d, ConvNeXt's 7x7 kernel, SLaK's stripes,
                     and a copy of the map, which is the lower bound set by memory; with --sweep, over the kernel size
benchmark.py model   inference of PeLK-T, PeLK-101-T, ConvNeXt-T, and SLaK-T (Table 8)
benchmark.py train   a training step of UperNet on each of them, with its peak memory
benchmark.py memory  the peak memory of a training step of any configs of mmseg
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from mmengine.device import get_device

from mmpelk.analysis.benchmark_report import PRECISIONS, Report, Settings
from mmpelk.analysis.model_benchmarks import benchmark_inference, benchmark_training, classifiers, print_memory, segmentors
from mmpelk.analysis.operator_benchmark import benchmark_operator, default_shapes
from mmpelk.analysis.plots import draw_sweep
from mmpelk.analysis.timing import machine
from mmpelk.apis.models import usable_device
from mmpelk.engine.command_line import check_outputs, run_tool
from mmpelk.utils.errors import InputError

# Larger tensors are assumed to be typing errors.
MAX_BYTES = 2**34


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    op, model, train, memory = (commands.add_parser(name) for name in ('op', 'model', 'train', 'memory'))
    for command in (op, model, train, memory):
        command.add_argument('--device', default=get_device(), help='default: %(default)s')
        command.add_argument(
            '--precision', choices=PRECISIONS, default='float32', help='training uses autocast; default: %(default)s'
        )
    for command in (op, model, train):
        command.add_argument('--out', type=Path, help='folder for the table, JSON, and plots')
        command.add_argument('--rounds', type=int, default=10, help='number of timed rounds; default: %(default)s')
        command.add_argument('--budget', type=float, default=10, help='maximum seconds for each call; default: %(default)s')
    op.add_argument(
        '--shape', type=int, nargs=4, action='append', metavar=('N', 'C', 'HW', 'K'), help='default: the stages of PeLK-T'
    )
    op.add_argument('--backward', action='store_true', help='time forward and backward together')
    op.add_argument('--sweep', action='store_true', help='time kernel sizes from 7 to 151 on the first shape, and plot them')
    model.add_argument('--deploy', action='store_true', help='fold branches, norms, and grids into plain convolutions')
    memory.add_argument('configs', nargs='+', metavar='CONFIG')
    for command, batch, size in ((model, 8, 224), (train, 2, 512), (memory, 2, 512)):
        command.add_argument('--batch', type=int, default=batch, help='number of images; default: %(default)s')
        command.add_argument('--size', type=int, default=size, help='height and width of the images; default: %(default)s')
    args = parser.parse_args()
    for name in ('rounds', 'budget', 'batch'):
        if not 0 < getattr(args, name, 1) < math.inf:
            raise InputError(f'--{name} must be positive, got {getattr(args, name)}')
    if args.command in ('train', 'memory') and args.batch < 2:
        raise InputError('--batch must be at least 2, because BatchNorm needs more than one value per channel; got 1')
    if getattr(args, 'size', 32) < 32:
        raise InputError(f'--size must be at least 32, got {args.size}')
    for shape in getattr(args, 'shape', None) or ():
        if min(shape) < 1 or shape[-1] % 2 == 0:
            raise InputError(f'--shape needs positive numbers, the last one odd, got {tuple(shape)}')
        n, c, size, k = shape
        if 4 * n * c * size * size > MAX_BYTES or 4 * c * k * k > MAX_BYTES:
            raise InputError(f'--shape {n} {c} {size} {k} needs maps or kernels of more than {MAX_BYTES // 2**30} GiB')
    if 4 * 3 * getattr(args, 'batch', 1) * getattr(args, 'size', 32) ** 2 > MAX_BYTES:
        raise InputError(f'--batch {args.batch} --size {args.size} needs images of more than {MAX_BYTES // 2**30} GiB')
    usable_device(args.device)
    if getattr(args, 'out', None):
        check_outputs([args.out / 'table.md'], [])
    return args


def run_benchmark(args: argparse.Namespace) -> Report:
    settings = Settings(args.device, args.rounds, args.budget, args.precision)
    if args.command == 'op':
        shapes = [tuple(shape) for shape in args.shape or default_shapes(args.device)]
        return benchmark_operator(shapes, args.backward, args.sweep, settings)
    if args.command == 'model':
        return benchmark_inference(classifiers(), args.batch, args.size, args.deploy, settings)
    return benchmark_training(segmentors(), args.batch, args.size, settings)


def main() -> None:
    args = parse_args()
    where = machine(args.device)
    print(', '.join(f'{key} {value}' for key, value in where.items()))
    if args.command == 'memory':
        print_memory(args.configs, args.batch, args.size, args.device, args.precision)
        return
    report = run_benchmark(args)
    print('\n' + report.text())
    if args.out:
        report.write(args.out, f'python tools/benchmark.py {" ".join(sys.argv[1:])}')
        if args.command == 'op' and args.sweep:
            draw_sweep(report.results, args.out / f'{report.name}.png', where['device'])


if __name__ == '__main__':
    run_tool(main)
