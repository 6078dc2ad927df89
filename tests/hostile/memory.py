"""Train for a long time, and check that the memory of the process and of its workers does not grow."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import TOOLS, tool_env

# Validation and checkpoints too, every 50 iterations.
CONFIG = """
_base_ = 'seg.py'
train_dataloader = dict(batch_size=4, num_workers=2, persistent_workers=True)
train_cfg = dict(max_iters=100_000_000, val_interval=50)
default_hooks = dict(checkpoint=dict(interval=50, max_keep_ckpts=2))
"""
GROWTH = 1.05
SECONDS = 5


def run(minutes: float, home: Path) -> Iterator[tuple[str, str | None]]:
    """Train for some minutes.

    Args:
        minutes: How long.
        home: A folder from :func:`bad_commands.make_home`.

    Yields:
        The memory in MiB in the second quarter of the time and in the last one, and whether it has grown by more than 5%.
    """
    (home / 'long.py').write_text(CONFIG)
    command = [sys.executable, str(TOOLS / 'train.py'), 'long.py', '--work-dir', 'long']
    with open(home / 'long.log', 'w') as log:
        process = subprocess.Popen(command, cwd=home, env=tool_env(), stdout=log, stderr=log, start_new_session=True)
    sizes, end = [], time.monotonic() + 60 * minutes
    while time.monotonic() < end and process.poll() is None:
        time.sleep(SECONDS)
        sizes.append(_memory(process.pid))
    is_running = process.poll() is None
    if is_running:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    quarter = len(sizes) // 4
    before, after = (statistics.median(part) for part in (sizes[quarter : 2 * quarter], sizes[-quarter:]))
    steps = (home / 'long/last_checkpoint').read_text().rpartition('_')[2].removesuffix('.pth')
    what = f'{minutes:g} minutes of training, {steps} iterations: {before:.0f} MiB in the second quarter, {after:.0f} MiB in the last'
    if not is_running:
        yield what, f'training ended: {(home / "long.log").read_text()[-300:]}'
    else:
        yield what, None if after < GROWTH * before else 'memory grows'


def _memory(pid: int) -> float:
    """Return the memory of a process and its children in MiB. Shared pages are counted once (PSS)."""
    total = 0
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(pid)], capture_output=True, text=True).stdout.split()
    for number in (pid, *map(int, children)):
        try:
            for line in Path(f'/proc/{number}/smaps_rollup').read_text().splitlines():
                total += int(line.split()[1]) if line.startswith('Pss:') else 0
        except OSError:  # the process has just ended
            continue
    return total / 1024
