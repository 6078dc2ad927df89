"""The parts that all tools share."""

import argparse

import pytest
from mmengine.runner.checkpoint import CheckpointLoader

from mmpelk.checkpoints.safe_io import load_from_local
from mmpelk.engine import command_line
from mmpelk.engine.command_line import add_cfg_options, add_runner_arguments, run_tool
from mmpelk.utils.errors import InputError


def test_run_tool_prepares_the_process_before_main(safe_io, monkeypatch):
    calls = []
    monkeypatch.setattr(command_line, 'declare_missing_operators', lambda: calls.append('operators'))
    monkeypatch.setattr(command_line, 'install_safe_io', lambda: calls.append('io'))
    run_tool(lambda: calls.append('main'))
    assert sorted(calls[:2]) == ['io', 'operators'] and calls[2:] == ['main']


def test_run_tool_reads_checkpoints_safely(safe_io, monkeypatch):
    monkeypatch.setattr(command_line, 'declare_missing_operators', lambda: None)
    CheckpointLoader._schemes.pop('')
    run_tool(lambda: None)
    assert CheckpointLoader._schemes[''] is load_from_local


def test_run_tool_prints_one_line_for_invalid_input(safe_io, capsys):
    def main():
        raise InputError('image x.png does not exist')

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    assert stop.value.code == 1 and capsys.readouterr().err == 'error: image x.png does not exist\n'


def test_cfg_options():
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    options = parser.parse_args(['--cfg-options', 'a.b=1', 'c=[1,2]', 'd=x,y', 'e=None', 'f=1e-3']).cfg_options
    assert options == {'a.b': 1, 'c': [1, 2], 'd': ['x', 'y'], 'e': None, 'f': 1e-3}


def test_runner_arguments():
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)
    args = parser.parse_args(['cfg.py'])
    assert (args.config, args.work_dir, args.cfg_options, args.launcher, args.local_rank) == ('cfg.py', None, None, 'none', 0)
    for name in ('--local-rank', '--local_rank'):
        assert parser.parse_args(['cfg.py', name, '3', '--launcher', 'slurm']).local_rank == 3
