"""Train kernels of different forms and sizes under equal budgets on small data, and compare them. If interrupted, it resumes.

train_evidence.py digits   the kernel forms of Table 1 and the grids of Table 5 on single digits, beside the paper's results. It shows
                           that each form trains, not which one is better on ImageNet.
train_evidence.py reach    kernel sizes and forms on keyed rows, where the label of a pixel can be far away; with --ablations, also h, the
                           center, the grids of Table 5, and the small branch, on the first size
train_evidence.py growing  ways to go on from a ConvNeXt with 7x7 kernels on keyed rows: as it is, and grown
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

from mmpelk.analysis import growing_comparison as growing
from mmpelk.analysis import reach_comparison as reach
from mmpelk.analysis.kernel_comparison import VARIANTS, config_text, results_as_markdown
from mmpelk.analysis.model_benchmarks import peak_memory
from mmpelk.analysis.reach_pictures import draw_comparison
from mmpelk.analysis.resuming import measure_missing
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    digits, rows, ways = (commands.add_parser(name) for name in ('digits', 'reach', 'growing'))
    for command, folder in ((digits, 'evidence'), (rows, 'evidence_reach'), (ways, 'evidence_growing')):
        command.add_argument('--seeds', type=int, default=3, help='number of runs of each variant; default: %(default)s')
        command.add_argument('--work-dir', type=Path, default=Path('work_dirs', folder), help='default: %(default)s')
    digits.add_argument('--epochs', type=int, default=10, help='default: %(default)s')
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


def train_on_digits(work_dir: Path, epochs: int, name: str) -> float:
    """Train a variant and seed, '<variant>/<seed>', and return its last top-1 accuracy in percent."""
    variant, seed = name.rsplit('/', 1)
    folder = work_dir / f'{epochs}e' / re.sub(r'\W+', '_', f'{variant}_{seed}')
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / 'config.py'
    config.write_text(config_text(variant, int(seed), epochs))
    tool = Path(__file__).with_name('train.py')
    command = [sys.executable, str(tool), str(config), '--work-dir', str(folder), '--resume']
    result = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r'accuracy/top1: ([\d.]+)', result.stdout + result.stderr)
    if result.returncode or not found:
        reason = (result.stderr.strip().splitlines() or ['?'])[-1]
        raise InputError(f'{variant}, seed {seed}: training failed; see {folder}: {reason}')
    return float(found[-1])


def compare_on_digits(args: argparse.Namespace) -> None:
    if not Path('data/digits').is_dir():
        raise InputError('data/digits does not exist; make it with python tools/make_digits.py')
    # All variants with the first seed come before any with the second, so that an interrupted comparison is still fair.
    names = [f'{variant}/{seed}' for seed in range(args.seeds) for variant in VARIANTS]
    path = args.work_dir / f'results_{args.epochs}e.json'
    results = measure_missing(names, partial(train_on_digits, args.work_dir, args.epochs), path)
    print(results_as_markdown(results, args.seeds, args.epochs))


def compare_reach(args: argparse.Namespace) -> None:
    planned = reach.runs(args.sizes, args.variants, args.seeds)
    if args.ablations:
        planned += reach.runs(args.sizes[:1], list(reach.ABLATIONS), args.seeds)
    by_name = {str(run): run for run in planned}

    def train(name: str) -> dict:
        return reach.train(by_name[name], args.iterations, args.work_dir)

    def memory(name: str) -> float:
        cfg = reach.run_config(by_name[f'{name}/0'], args.iterations, args.work_dir)
        return round(peak_memory(cfg, cfg.train_dataloader.batch_size, by_name[f'{name}/0'].size, 'cpu'))

    results = measure_missing(list(by_name), train, args.work_dir / f'results_{args.iterations}i.json')
    first = dict.fromkeys(f'{run.size}/{run.variant}' for run in planned)
    needed = measure_missing(list(first), memory, args.work_dir / 'memory.json')
    print(reach.results_as_markdown(results, needed, args.sizes, args.variants, args.seeds))
    if args.ablations:
        print(reach.results_as_markdown(results, needed, args.sizes[:1], list(reach.ABLATIONS), args.seeds))
    draw_comparison(results, args.sizes, args.variants, args.seeds, args.iterations, args.work_dir)
    print(f'pictures in {args.work_dir}')


def compare_growing(args: argparse.Namespace) -> None:
    def train(name: str) -> dict:
        way, seed = name.rsplit('/', 1)
        return growing.train(way, int(seed), args.work_dir)

    names = [f'{way}/{seed}' for seed in range(args.seeds) for way in growing.WAYS]
    results = measure_missing(names, train, args.work_dir / 'results.json')
    print(growing.results_as_markdown(results, args.seeds))


def main() -> None:
    args = parse_args()
    dict(digits=compare_on_digits, reach=compare_reach, growing=compare_growing)[args.command](args)


if __name__ == '__main__':
    run_tool(main)
