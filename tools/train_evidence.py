"""Train the kernel forms of Table 1 and the grids of Table 5 on digits, under equal budgets, and print them beside the paper's.

Small-scale evidence: a PeLK atto, single digits, minutes. It shows that each form trains, not which is better on ImageNet. A run that was
stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from mmpelk.analysis.paper import TABLE5
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs/demo/pelk_atto_digits_cls.py'
ALL_CHANNELS = dict(conv_ratio=1.0, pos_embed=None)
LAST_STAGE = (2, 2, 1, 1, 1)
# Name: backbone settings, the paper's top-1.
VARIANTS = {
    'form: peripheral 51': (dict(pos_embed=None), None),
    'form: dense 51': (dict(kernel_form='dense', **ALL_CHANNELS), 81.6),
    'form: stripe 51': (dict(kernel_form='stripe', **ALL_CHANNELS), 81.3),
    **{
        f'grid {number}: {list(half)}': (dict(sharing_grids=[half, half, half, LAST_STAGE], pos_embed=None), top1)
        for number, (half, _, top1) in enumerate(TABLE5, 1)
    },
}


def train(name: str, seed: int, epochs: int, work_dir: Path) -> float:
    """Train one variant without sparsity, and return its last top-1."""
    settings, _ = VARIANTS[name]
    work_dir.mkdir(parents=True, exist_ok=True)
    config = work_dir / 'config.py'
    config.write_text(
        f"_base_ = '{CONFIG}'\n"
        f'model = dict(backbone=dict({", ".join(f"{key}={value!r}" for key, value in settings.items())}))\n'
        f'train_cfg = dict(max_epochs={epochs}, val_interval={epochs})\n'
        'param_scheduler = [\n'
        "    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),\n"
        f"    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=1, end={max(epochs, 2)}, convert_to_iter_based=True),\n"
        ']\n'
        "custom_hooks = [dict(type='EMAHook', momentum=0.02, priority='ABOVE_NORMAL')]\n"
        f'randomness = dict(seed={seed})\n'
    )
    command = [sys.executable, str(ROOT / 'tools/train.py'), str(config), '--work-dir', str(work_dir), '--resume']
    result = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r'accuracy/top1: ([\d.]+)', result.stdout + result.stderr)
    if result.returncode or not found:
        raise InputError(
            f'{name}, seed {seed}: training failed; see {work_dir}: {(result.stderr.strip().splitlines() or ["?"])[-1]}'
        )
    return float(found[-1])


def report(results: dict[str, float], seeds: int, epochs: int) -> str:
    """A table in Markdown: mean, standard deviation, and the paper's top-1."""
    lines = [f'| variant | top-1 on digits, {epochs} epochs, {seeds} seeds | paper, ImageNet, 120 epochs |', '|---|---|---|']
    for name, (_, paper) in VARIANTS.items():
        values = [results[f'{name}/{seed}'] for seed in range(seeds) if f'{name}/{seed}' in results]
        if values:
            spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
            lines.append(f'| {name} | {statistics.mean(values):.1f}{spread} | {paper or "-"} |')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=10, help='default: %(default)s')
    parser.add_argument('--seeds', type=int, default=3, help='default: %(default)s')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/evidence'), help='default: %(default)s')
    args = parser.parse_args()
    if args.epochs < 2 or args.seeds < 1:
        raise InputError(f'--epochs must be at least 2 and --seeds at least 1, got {args.epochs} and {args.seeds}')
    if not Path('data/digits').is_dir():
        raise InputError('data/digits does not exist; make it with python tools/make_digits.py')
    path = args.work_dir / f'results_{args.epochs}e.json'
    results = json.loads(path.read_text()) if path.exists() else {}
    # Seed by seed, so that a run stopped early has compared all variants on the first seeds.
    runs = [(name, seed) for seed in range(args.seeds) for name in VARIANTS if f'{name}/{seed}' not in results]
    start = time.monotonic()
    for done, (name, seed) in enumerate(runs):
        folder = args.work_dir / f'{args.epochs}e' / re.sub(r'\W+', '_', f'{name}_{seed}')
        results[f'{name}/{seed}'] = train(name, seed, args.epochs, folder)
        args.work_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1))
        remaining = (time.monotonic() - start) / (done + 1) * (len(runs) - done - 1)
        print(
            f'[{done + 1}/{len(runs)}, {remaining / 60:.0f} min to go] {name}, seed {seed}: {results[f"{name}/{seed}"]:.1f}',
            flush=True,
        )
    print(report(results, args.seeds, args.epochs))


if __name__ == '__main__':
    run_tool(main)
