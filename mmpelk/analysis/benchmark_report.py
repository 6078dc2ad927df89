"""Measure the calls of a benchmark, and report the results as text, Markdown, and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from .timing import Timing, interleaved, machine

PRECISIONS = dict(float32=torch.float32, float16=torch.float16, bfloat16=torch.bfloat16)


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement.

    Attributes:
        device: Device on which the calls run.
        rounds: Number of timed rounds.
        budget: Maximum time for each call in seconds.
        precision: A key of ``PRECISIONS``.
    """

    device: str = 'cpu'
    rounds: int = 10
    budget: float = 10.0
    precision: str = 'float32'

    @property
    def dtype(self) -> torch.dtype:
        return PRECISIONS[self.precision]


@dataclass(frozen=True)
class Report:
    """The results of a benchmark.

    Attributes:
        name: Name of the files, without a suffix.
        title: What was measured.
        lines: The results as lines of Markdown.
        results: The results for JSON.
        settings: The settings of the measurement.
    """

    name: str
    title: str
    lines: list[str]
    results: list | dict
    settings: Settings

    @property
    def heading(self) -> str:
        return f'{self.title}, {self.settings.precision}, medians of up to {self.settings.rounds} interleaved rounds'

    def text(self) -> str:
        """Return the heading and the results."""
        return '\n'.join((self.heading, '', *self.lines))

    def write(self, folder: Path, command: str) -> None:
        """Write a Markdown and a JSON file into a folder, with the command and the machine that produced the results."""
        where = machine(self.settings.device)
        conditions = ', '.join(f'{key} {value}' for key, value in where.items())
        page = (f'# {self.heading}', '', f'`{command}`', '', f'{conditions}.', '', *self.lines, '')
        record = dict(where, command=command, precision=self.settings.precision, milliseconds=self.results)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f'{self.name}.md').write_text('\n'.join(page))
        (folder / f'{self.name}.json').write_text(json.dumps(record, indent=1) + '\n')


def measure(calls: Mapping[str, Callable[[], object]], settings: Settings, title: str) -> dict[str, Timing]:
    """Time calls in turn. On a terminal, show the progress as one dot per turn after the title."""
    on_terminal = sys.stdout.isatty()
    print(title, end=' ' if on_terminal else '\n', flush=True)
    if not on_terminal:
        return interleaved(calls, settings.device, settings.rounds, settings.budget)
    times = interleaved(calls, settings.device, settings.rounds, settings.budget, lambda: print('.', end='', flush=True))
    print()
    return times
