"""Shared by all tests: small data sets and a way to run the tools as a user does."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / 'configs'
TOOLS = ROOT / 'tools'


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def digit_scenes(tmp_path_factory) -> Path:
    """A folder that holds data/digit_scenes with 16 training and 4 validation scenes."""
    from mmpelk.datasets import make_digit_scenes

    home = tmp_path_factory.mktemp('digits')
    make_digit_scenes(home / 'data/digit_scenes', 16, 4)
    return home


@pytest.fixture
def run_tool(tmp_path):
    """Run a tool in a process of its own, from a folder of the test's, and return what it printed."""

    def run(tool: str, *args: object, cwd: Path = tmp_path) -> str:
        command = [sys.executable, str(TOOLS / tool), *map(str, args)]
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=tool_env(), timeout=600)
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
        return result.stdout + result.stderr

    return run


def tool_env() -> dict[str, str]:
    return {**os.environ, 'PYTHONPATH': str(ROOT), 'MPLBACKEND': 'Agg', 'OMP_NUM_THREADS': str(torch.get_num_threads())}


@pytest.fixture
def fail_tool(monkeypatch, capfd):
    """Run a tool that must fail, inside this process, and return its one line of error."""

    def run(tool: str, *args: object, cwd: Path) -> str:
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(TOOLS / tool), run_name='__main__')
        assert stop.value.code == 1
        last = capfd.readouterr().err.strip().splitlines()[-1]
        assert last.startswith('error: '), last
        return last

    return run
