"""A small part of what `make soak` runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tool_env

# Command lines of each kind that are fast.
COMMANDS = (
    r'^(plot_training|plot_grid|make_digits|onnx_demo .*(classes|size)=|train_evidence)|--launcher|model.backbone.(arch|with_cp)='
)


def soak(*arguments):
    command = [sys.executable, str(Path(__file__).with_name('soak.py')), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=tool_env())
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-2000:]
    return [tuple(map(int, numbers)) for numbers in re.findall(r': (\d+) tried, (\d+) passed', result.stdout)]


def test_commands_and_checkpoints():
    """In one process, which imports everything once."""
    pytest.importorskip('mmdet')
    pytest.importorskip('mmcv._ext')
    (tried, passed), (checkpoints, loaded) = soak('commands', 'checkpoints', '--only', COMMANDS, '--count', 30)
    assert tried == passed >= 25 and checkpoints == loaded == 30


def test_operator_calls():
    assert soak('operator', '--count', 100) == [(100, 100)]
