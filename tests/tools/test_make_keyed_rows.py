"""tools/make_keyed_rows.py writes a dataset with the given options."""

import json
import runpy
import sys

from conftest import TOOLS


def test_scenes(monkeypatch, capfd, fail_tool, tmp_path):
    arguments = ['--num-training', '3', '--num-validation', '2', '--size', '64', '--rows', '2', '--jitter', '1', '--seed', '5']
    monkeypatch.setattr(sys, 'argv', ['make_keyed_rows.py', str(tmp_path / 'rows'), *arguments])
    runpy.run_path(str(TOOLS / 'make_keyed_rows.py'))['main']()
    assert 'keyed rows: 3 training, 2 validation, in ' in capfd.readouterr().out
    made_with = json.loads((tmp_path / 'rows/made_with.json').read_text())
    assert made_with == dict(version=1, training=3, validation=2, size=64, rows=2, jitter=1, seed=5)
    assert '9 rows with a jitter of 3 need 135 pixels' in fail_tool(
        'make_keyed_rows.py', '--rows', 9, '--jitter', 3, cwd=tmp_path
    )
