"""Run the hostile inputs, and print how many were tried and how many passed.

soak.py commands      command lines with invalid input, in forked processes
soak.py checkpoints   damaged checkpoints
soak.py operator      random calls of the operator against float64 loops
soak.py kills         training that is killed at random moments and resumed
soak.py memory        an hour of training, whose memory must not grow

Several kinds can be given, and ``all`` stands for all of them. ``--count`` limits the number of inputs; command lines are then spread over
all cases. Failures are printed, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path[:0] = [str(FOLDER.parents[1]), str(FOLDER.parent), str(FOLDER.parent / 'ops')]
os.environ.setdefault('MPLBACKEND', 'Agg')

# The number of inputs of each kind. All command lines are tried, and memory is measured for a number of minutes.
COUNTS = dict(commands=None, checkpoints=2000, operator=5000, kills=20, memory=60)


def results(kind: str, count: int | None, only: str, home: Path) -> tuple[int, Iterator[tuple[str, str | None]]]:
    """Return the number of inputs of a kind, and an iterator over the inputs, each with what went wrong, or None."""
    if kind == 'operator':
        import operator_calls

        return count, operator_calls.run(count)
    import bad_commands

    if kind == 'checkpoints':
        import damaged_checkpoints

        return count, damaged_checkpoints.run(count, home, *bad_commands.save_model(home, 'cls'))
    bad_commands.preload()
    bad_commands.make_home(home)
    if kind == 'kills':
        import kills

        return count, kills.run(count, home)
    if kind == 'memory':
        import memory

        return 1, memory.run(count, home)
    cases = [case for case in bad_commands.all_cases() if re.search(only, case.name)]
    cases = cases[:: max(1, len(cases) // count) if count else 1]
    return len(cases), bad_commands.run(cases, home)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('kinds', nargs='+', choices=['all', *COUNTS], metavar='kind', help=f'all, or any of {", ".join(COUNTS)}')
    parser.add_argument('--count', type=int, help=f'number of inputs, or of minutes for memory; default: {COUNTS}')
    parser.add_argument('--only', default='', help='run only command lines that match this regular expression')
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    failed = 0
    for kind in COUNTS if 'all' in args.kinds else args.kinds:
        start, tried, faults = time.monotonic(), 0, 0
        with tempfile.TemporaryDirectory() as home:
            total, inputs = results(kind, args.count or COUNTS[kind], args.only, Path(home))
            shown = time.monotonic()
            for what, fault in inputs:
                tried += 1
                if time.monotonic() - shown > 60:
                    shown = time.monotonic()
                    minutes = (shown - start) / tried * (total - tried) / 60
                    print(f'{kind}: {tried} of {total} tried, about {minutes:.0f} min left', flush=True)
                if kind == 'memory':
                    print(what, flush=True)
                if fault is not None:
                    faults += 1
                    print(f'FAILED {what}\n       {fault}', flush=True)
        print(f'{kind}: {tried} tried, {tried - faults} passed, {time.monotonic() - start:.0f} s', flush=True)
        failed += faults or not tried
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
