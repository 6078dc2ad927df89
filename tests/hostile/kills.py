"""Kill training at random moments and resume it. The final weights must equal those of an uninterrupted run, bit for bit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from bad_commands import run_tool
from forks import run_forked

ITERATIONS = 20
# Augmentation in two workers, stochastic depth, and a validation between the checkpoints.
CONFIG = f"""
_base_ = 'seg.py'
model = dict(backbone=dict(drop_path_rate=0.3))
train_dataloader = dict(num_workers=2, persistent_workers=True)
train_cfg = dict(max_iters={ITERATIONS}, val_interval=8)
default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=2))
"""


def run(count: int, home: Path, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Kill and resume.

    Args:
        count: Number of kills.
        home: A folder from :func:`bad_commands.make_home`.
        seed: Seed of the moments.

    Yields:
        For each kill, when it came, and what is wrong with the weights after the resumed run has finished, or None.
    """
    (home / 'killed.py').write_text(CONFIG)
    start = time.monotonic()
    outcome = run_forked(lambda: run_tool('train.py', ['killed.py', '--work-dir', 'straight'], home))
    duration = time.monotonic() - start
    assert outcome.code == 0, outcome.stderr[-2000:]
    rng = np.random.default_rng(seed)
    done = 0
    while done < count:
        work_dir, moments = f'killed_{done}', []
        while True:
            # The last allowed kill of this round is followed by a run that finishes.
            seconds = rng.uniform(0.1, 1.0) * duration if done + len(moments) < count and len(moments) < 5 else 20 * duration
            arguments = ['killed.py', '--work-dir', work_dir, '--resume']
            outcome = run_forked(lambda arguments=arguments: run_tool('train.py', arguments, home), seconds)
            if outcome.code != -signal.SIGKILL:
                break
            moments.append(f'after {seconds:.1f} s of {duration:.1f} s')
        fault = None if outcome.code == 0 else f'exit code {outcome.code}: {outcome.stderr[-300:]}'
        fault = fault or _difference(home / 'straight', home / work_dir)
        yield from ((f'kill {moment}', fault) for moment in moments)
        if fault and not moments:
            yield 'a run that was not killed', fault
        done += len(moments)


def _difference(straight: Path, resumed: Path) -> str | None:
    """Return how the final weights of two runs differ, or None."""
    weights, others = (
        torch.load(folder / f'iter_{ITERATIONS}.pth', weights_only=False)['state_dict'] for folder in (straight, resumed)
    )
    different = [name for name, value in weights.items() if not torch.equal(value, others[name])]
    left = [path.name for path in resumed.iterdir() if path.name.startswith('.')]
    if left:
        return f'left {left}'
    return f'{len(different)} of {len(weights)} weights differ, such as {different[0]}' if different else None
