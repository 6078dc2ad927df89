"""A small part of what `make soak` runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tool_env

# Fast command lines, and a last_checkpoint file that names no checkpoint.
COMMANDS = r'^complexity.*backbone\.(small_kernel|out_indices|frozen_stages|with_cp|width_factor|arch\.depths)=|--work-dir w --resume .*cls'


def soak(*arguments):
    command = [sys.executable, str(Path(__file__).with_name('soak.py')), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=tool_env())
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    return [tuple(map(int, numbers)) for numbers in re.findall(r': (\d+) tried, (\d+) passed', result.stdout)]


def test_commands_and_checkpoints():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext')
    (tried, passed), (checkpoints, loaded) = soak('commands', 'checkpoints', '--only', COMMANDS, '--count', 16)
    assert tried == passed >= 16 and checkpoints == loaded == 16


def test_operator_calls():
    assert soak('operator', '--count', 100) == [(100, 100)]
