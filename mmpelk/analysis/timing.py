"""Time several calls side by side."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch

# Duration of a turn in seconds. A turn repeats a short call for this long.
TURN = 0.02


@dataclass(frozen=True)
class Timing:
    """The time of one call in milliseconds.

    Attributes:
        median: Median of the timed rounds.
        fastest, slowest: Extremes of the timed rounds.
        rounds: Number of timed rounds.
    """

    median: float
    fastest: float
    slowest: float
    rounds: int


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device | str = 'cpu',
    rounds: int = 10,
    budget: float = 10.0,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """Time calls in turn, so that other load on the machine affects all of them equally.

    Args:
        calls: The calls by name.
        device: Device on which they run. On a GPU, CUDA events measure the time.
        rounds: Number of timed turns for each call, after one or two turns to warm up. A turn repeats a short call for ``TURN`` seconds.
        budget: Maximum time for each call in seconds. A call that is too slow for all rounds runs in fewer, but in at least one.
        progress: Function to call after each turn.
    """
    device = torch.device(device)

    def seconds(call: Callable[[], object], repeats: int = 1) -> float:
        took = _seconds(call, repeats, device) / repeats
        progress()
        return took

    repeats, turns = {}, {}
    for name, call in calls.items():
        took = seconds(call)
        if took < TURN or device.type == 'cuda':  # the first call on a GPU may compile and tune
            took = seconds(call)
        repeats[name] = max(1, int(TURN / took))
        turns[name] = max(1, min(rounds, int(budget / took)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name, call in calls.items():
            if turn < turns[name]:
                times[name].append(1000 * seconds(call, repeats[name]))
    return {name: Timing(statistics.median(values), min(values), max(values), len(values)) for name, values in times.items()}


def machine(device: torch.device | str) -> dict[str, str | int]:
    """Describe the conditions of a measurement: device, threads, versions, and date."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else _cpu()
    return dict(
        device=name,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        python=platform.python_version(),
        date=str(date.today()),
    )


def _cpu() -> str:
    lines = Path('/proc/cpuinfo').read_text().splitlines() if Path('/proc/cpuinfo').exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return f'{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores'


def _seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    if device.type != 'cuda':
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return time.perf_counter() - start
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.device(device):
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1000
