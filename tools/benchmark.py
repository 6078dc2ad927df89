"""Time the operator, models or training steps beside what they are compared with, interleaved in one process: medians, spread, ratios.

benchmark.py op      peripheral convolution: backends, layouts, F.conv2d, ConvNeXt's 7x7 and SLaK's stripes, and a copy of the map, which
                     is memory's floor; --sweep: over kernel sizes
benchmark.py model   inference of PeLK-T, PeLK-101-T, ConvNeXt-T, SLaK-T (Table 8)
benchmark.py train   a training step of UperNet on each, with its peak memory
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from mmengine.device import get_device
from mmengine.utils import ProgressBar

from mmpelk.analysis.benchmarks import (
    GPU_SHAPES,
    SHAPES,
    classifiers,
    operator_calls,
    operator_work,
    peak_memory,
    segmentors,
    training_step,
)
from mmpelk.analysis.paper import TABLE8
from mmpelk.analysis.timing import Timing, interleaved, machine
from mmpelk.engine.command_line import run_tool
from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError

PRECISIONS = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)
SWEEP = (7, 13, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111, 121, 131, 141, 151)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    op, model, train = (commands.add_parser(name) for name in ('op', 'model', 'train'))
    for command in (op, model, train):
        command.add_argument('--device', default=get_device(), help='default: %(default)s')
        command.add_argument('--rounds', type=int, default=10, help='timed rounds; default: %(default)s')
        command.add_argument('--budget', type=float, default=10, help='seconds for each call at most; default: %(default)s')
        command.add_argument(
            '--precision', choices=PRECISIONS, default='float32', help='train: by autocast; default: %(default)s'
        )
        command.add_argument('--out', type=Path, help='folder for the table, JSON and pictures')
    op.add_argument('--shape', type=int, nargs=4, action='append', metavar=('N', 'C', 'HW', 'K'), help="default: PeLK-T's stages")
    op.add_argument('--backward', action='store_true', help='forward and backward together')
    op.add_argument('--sweep', action='store_true', help='kernels of 7 to 151 on the first shape, with a plot')
    model.add_argument('--deploy', action='store_true', help='with branches, norms and grids folded into plain convolutions')
    for command, batch, size in ((model, 8, 224), (train, 2, 512)):
        command.add_argument('--batch', type=int, default=batch, help='images at once; default: %(default)s')
        command.add_argument('--size', type=int, default=size, help='height and width; default: %(default)s')
    args = parser.parse_args()
    for name in ('rounds', 'budget', 'batch'):
        if getattr(args, name, 1) <= 0:
            raise InputError(f'--{name} must be positive, got {getattr(args, name)}')
    if getattr(args, 'size', 32) < 32:
        raise InputError(f'--size must be at least 32, got {args.size}')
    where = machine(args.device)
    print(', '.join(f'{key} {value}' for key, value in where.items()))
    {'op': bench_operator, 'model': bench_models, 'train': bench_training}[args.command](args, where)


def bench_operator(args: argparse.Namespace, where: dict) -> None:
    defaults = GPU_SHAPES if torch.device(args.device).type == 'cuda' else SHAPES
    shapes = [tuple(shape) for shape in args.shape or defaults]
    for n, c, size, k in shapes:
        if min(n, c, size, k) < 1 or k % 2 == 0:
            raise InputError(f'--shape needs positive numbers, the last one odd, got {(n, c, size, k)}')
    if args.sweep:
        shapes = [(*shapes[0][:3], k) for k in SWEEP]
    measured = {}
    for shape in shapes:
        calls = operator_calls(shape, args.backward, args.device, PRECISIONS[args.precision])
        measured[shape] = timed(calls, args, str(shape))
    names = list(next(iter(measured.values())))
    lines = [f'| (N, C, H = W, K) | {" | ".join(names)} | F.conv2d : auto | 7x7 : auto | both channels_last |']
    lines.append('|---' * (len(names) + 4) + '|')
    for shape, times in measured.items():
        cells = [f'{times[name].median:.3g}' for name in names]
        last = times['7x7, 8/3 C, channels_last'].median / times['auto, channels_last'].median
        ratios = [f'{times[name].median / times["auto"].median:.2f}' for name in ('F.conv2d', '7x7, 8/3 C')]
        lines.append(f'| {shape} | {" | ".join((*cells, *ratios, f"{last:.2f}"))} |')
    lines += ['', 'What it takes at least, and what auto reached: numbers of the maps read and written, multiply-adds.', '']
    lines.append('| (N, C, H = W, K) | MB | copy (ms) | auto : copy | dense GMAC | structured GMAC | auto, structured GMAC/s |')
    lines.append('|---' * 7 + '|')
    for shape, times in measured.items():
        work, auto, copy = operator_work(shape, args.backward), times['auto'].median, times['copy'].median
        size = work['values'] * PRECISIONS[args.precision].itemsize / 1e6
        lines.append(
            f'| {shape} | {size:.3g} | {copy:.3g} | {auto / copy:.2f} | {work["dense"] / 1e9:.3g} | {work["structured"] / 1e9:.3g} '
            f'| {work["structured"] / auto / 1e6:.3g} |'
        )
    name = 'op' + ('_backward' if args.backward else '') + ('_sweep' if args.sweep else '')
    results = [
        dict(shape=shape, **operator_work(shape, args.backward), **{key: asdict(value) for key, value in times.items()})
        for shape, times in measured.items()
    ]
    report(name, f'milliseconds, {"forward and backward" if args.backward else "forward"}', lines, results, args, where)
    if args.sweep and args.out:
        draw_sweep(measured, args.out / f'{name}.png', where)


def bench_models(args: argparse.Namespace, where: dict) -> None:
    models = {name: model.to(args.device, PRECISIONS[args.precision]).eval() for name, model in classifiers().items()}
    for model in models.values():
        if args.deploy and isinstance(model.backbone, PeLK):
            model.backbone.switch_to_deploy()
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device, dtype=PRECISIONS[args.precision])
    calls = {name: torch.inference_mode()(lambda model=model: model(images)) for name, model in models.items()}
    times = timed(calls, args, 'models')
    lines = [
        '| model | images/s | ms | slowest : fastest | over ConvNeXt-T x 1.3 | over SLaK-T, published | paper, A100, over SLaK-T |'
    ]
    lines.append('|---' * 7 + '|')
    for name, took in times.items():
        ratios = [times[other].median / took.median for other in ('ConvNeXt-T x 1.3', 'SLaK-T, published')]
        printed = f'{TABLE8[name] / TABLE8["SLaK-T"]:.2f}' if name in TABLE8 else ''
        lines.append(
            f'| {name} | {1000 * args.batch / took.median:.2f} | {took.median:.1f} | {took.slowest / took.fastest:.2f} '
            f'| {ratios[0]:.3f} | {ratios[1]:.2f} | {printed} |'
        )
    title = f'inference, batch {args.batch}, {args.size} px{", deployed" if args.deploy else ""}'
    results = {name: asdict(value) for name, value in times.items()}
    report(f'model_{args.size}' + ('_deploy' if args.deploy else ''), title, lines, results, args, where)


def bench_training(args: argparse.Namespace, where: dict) -> None:
    memory, dtype = {}, PRECISIONS[args.precision]
    for name in segmentors():
        print(f'peak memory of {name}', flush=True)
        memory[name] = peak_memory(name, args.batch, args.size, args.device, dtype)
    calls = {name: training_step(cfg, args.batch, args.size, args.device, dtype) for name, cfg in segmentors().items()}
    times = timed(calls, args, 'training steps')
    wide = 'ConvNeXt-T x 1.3'
    lines = [f'| model | ms a step | slowest : fastest | time over {wide} | peak memory (MiB) | memory over {wide} |']
    lines.append('|---' * 6 + '|')
    for name, took in times.items():
        lines.append(
            f'| {name} | {took.median:.0f} | {took.slowest / took.fastest:.2f} | {took.median / times[wide].median:.3f} '
            f'| {memory[name]:.0f} | {memory[name] / memory[wide]:.3f} |'
        )
    results = {name: dict(asdict(value), peak_mib=memory[name]) for name, value in times.items()}
    report('train', f'UperNet, batch {args.batch}, {args.size} px', lines, results, args, where)


def timed(calls: dict[str, Callable[[], object]], args: argparse.Namespace, title: str) -> dict[str, Timing]:
    """Interleaved times, with progress on a terminal."""
    print(title, flush=True)
    if not sys.stdout.isatty():
        return interleaved(calls, args.device, args.rounds, args.budget)
    bar = ProgressBar(len(calls) * (args.rounds + 2))
    times = interleaved(calls, args.device, args.rounds, args.budget, bar.update)
    print()
    return times


def report(name: str, title: str, lines: list[str], results: object, args: argparse.Namespace, where: dict) -> None:
    """Print a table; write it and the measurements."""
    head = f'{title}, {args.precision}, medians of up to {args.rounds} interleaved rounds'
    print('\n'.join(('', head, '', *lines)))
    if args.out is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    command = f'python tools/benchmark.py {" ".join(sys.argv[1:])}'
    settings = ', '.join(f'{key} {value}' for key, value in where.items())
    (args.out / f'{name}.md').write_text('\n'.join((f'# {head}', '', f'`{command}`', '', f'{settings}.', '', *lines, '')))
    record = dict(where, command=command, precision=args.precision, milliseconds=results)
    (args.out / f'{name}.json').write_text(json.dumps(record, indent=1) + '\n')


def draw_sweep(measured: dict[tuple, dict[str, Timing]], path: Path, where: dict) -> None:
    """Time against the kernel's size."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout='constrained')
    sizes = [shape[3] for shape in measured]
    for name in next(iter(measured.values())):
        if name != 'auto, channels_last' and name != '7x7, 8/3 C, channels_last':
            axes.plot(sizes, [times[name].median for times in measured.values()], marker='o', markersize=3, label=name)
    shape = next(iter(measured))[:3]
    axes.set(
        xlabel='kernel size',
        ylabel='ms',
        yscale='log',
        title=f'Depthwise convolution, (N, C, H = W) = {shape}\n{where["device"]}',
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == '__main__':
    run_tool(main)
