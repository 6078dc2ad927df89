"""Train the kernel forms of Table 1 and the grids of Table 5 on digits, under equal budgets, and compare the results with the paper.

This is evidence at a small scale: a PeLK atto, single digits, minutes per run. It shows that each form trains, not which one is better on
ImageNet. If it was interrupted, it resumes.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from mmpelk.analysis.kernel_comparison import VARIANTS, config_text, results_as_markdown
from mmpelk.checkpoints.writing import write_atomically
from mmpelk.engine.command_line import run_tool
from mmpelk.utils.errors import InputError, first_line


def train(name: str, seed: int, epochs: int, work_dir: Path) -> float:
    """Train one variant, and return its last top-1 accuracy in percent."""
    work_dir.mkdir(parents=True, exist_ok=True)
    config = work_dir / 'config.py'
    config.write_text(config_text(name, seed, epochs))
    tool = Path(__file__).with_name('train.py')
    command = [sys.executable, str(tool), str(config), '--work-dir', str(work_dir), '--resume']
    result = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r'accuracy/top1: ([\d.]+)', result.stdout + result.stderr)
    if result.returncode or not found:
        reason = (result.stderr.strip().splitlines() or ['?'])[-1]
        raise InputError(f'{name}, seed {seed}: training failed; see {work_dir}: {reason}')
    return float(found[-1])


def read_results(path: Path) -> dict[str, float]:
    """Return the results of an earlier, interrupted comparison, the accuracy by variant and seed."""
    if not path.exists():
        return {}
    try:
        results = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f'{path} is not valid JSON: {first_line(error)}; remove it to start again') from error
    if not isinstance(results, dict) or not all(isinstance(top1, float) for top1 in results.values()):
        raise InputError(f'{path} does not contain accuracies by variant and seed; remove it to start again')
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--epochs', type=int, default=10, help='default: %(default)s')
    parser.add_argument('--seeds', type=int, default=3, help='number of runs of each variant; default: %(default)s')
    parser.add_argument('--work-dir', type=Path, default=Path('work_dirs/evidence'), help='default: %(default)s')
    args = parser.parse_args()
    if args.epochs < 2 or args.seeds < 1:
        raise InputError(f'--epochs must be at least 2 and --seeds at least 1, got {args.epochs} and {args.seeds}')
    if not Path('data/digits').is_dir():
        raise InputError('data/digits does not exist; make it with python tools/make_digits.py')
    path = args.work_dir / f'results_{args.epochs}e.json'
    results = read_results(path)
    # All variants with the first seed come before any with the second, so that an interrupted comparison is still fair.
    runs = [(name, seed) for seed in range(args.seeds) for name in VARIANTS if f'{name}/{seed}' not in results]
    start = time.monotonic()
    for done, (name, seed) in enumerate(runs, 1):
        folder = args.work_dir / f'{args.epochs}e' / re.sub(r'\W+', '_', f'{name}_{seed}')
        top1 = results[f'{name}/{seed}'] = train(name, seed, args.epochs, folder)
        write_atomically(json.dumps(results, indent=1).encode(), path)
        remaining = (time.monotonic() - start) / done * (len(runs) - done)
        print(f'[{done}/{len(runs)}, {remaining / 60:.0f} min to go] {name}, seed {seed}: {top1:.1f}', flush=True)
    print(results_as_markdown(results, args.seeds, args.epochs))


if __name__ == '__main__':
    run_tool(main)
