"""tools/complexity.py: one config, and the tables with fewer rows."""

import json
import re
import runpy
import sys

import cv2
from conftest import CONFIGS, TOOLS

from mmpelk.analysis import complexity_tables, paper


def test_one_config(run_tool, fail_tool, tmp_path):
    config = CONFIGS / 'pelk_t_in1k.py'
    small = ['--cfg-options', 'model.backbone.arch=atto', 'model.head.in_channels=416']
    printed = run_tool('complexity.py', config, '--size', 64, 96, '--density', 0.6, *small)
    assert f'{config} at 64x96' in printed
    dense, kept = map(float, re.search(r'multiply-adds +(\d+\.\d+) G, kept at density 0.6: +(\d+\.\d+) G', printed).groups())
    assert 0 < dense < 1 and abs(kept - 0.6 * dense) <= 0.01
    assert 'must lie in (0, 1], got 2.0' in fail_tool('complexity.py', config, '--density', 2, cwd=tmp_path)
    assert '--out writes the tables of all models' in fail_tool('complexity.py', config, '--out', 'x', cwd=tmp_path)


def test_tables(monkeypatch, capsys, tmp_path):
    rows = [row for row in paper.ROWS if row.table == 4 and row.method in ('PerViT-S', 'ConvNeXt-T')]
    parts = {'stem and downsampling': 10**9, 'large kernels': 10**9, 'MLP': 10**9, 'h': 1, 'other': 0, 'head': 1}
    monkeypatch.setattr(paper, 'ROWS', rows)
    monkeypatch.setattr(complexity_tables, 'count_breakdown', lambda: parts)  # tests/analysis counts it
    monkeypatch.setattr(sys, 'argv', ['complexity.py', '--out', str(tmp_path / 'new')])
    runpy.run_path(str(TOOLS / 'complexity.py'))['main']()
    printed = capsys.readouterr().out
    assert 'Table 4  ConvNeXt-T' in printed and 'Table 5, weights' in printed and 'Fig. 5, PeLK-T' in printed
    written = json.loads((tmp_path / 'new/complexity.json').read_text())
    assert [row['method'] for row in written] == ['PerViT-S', 'ConvNeXt-T'] and 4.4 < written[1]['gmacs_ours'] < 4.6
    for name in ('fig5.png', 'fig6.png'):
        assert cv2.imread(str(tmp_path / 'new' / name)).std() > 1
    assert {path.name for path in (tmp_path / 'new').iterdir()} == {
        'complexity.csv', 'complexity.json', 'complexity.md', 'fig5.png', 'fig6.png'
    }  # fmt: skip
