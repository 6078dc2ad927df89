"""tools/plot_grid.py draws one panel for each grid."""

import runpy
import sys

import cv2
from conftest import TOOLS


def test_panels(monkeypatch, capfd, fail_tool, tmp_path):
    monkeypatch.chdir(tmp_path)
    for options in (['--kernels', '51', '--centers', '5', '--out', 'one.png'], []):
        monkeypatch.setattr(sys, 'argv', ['plot_grid.py', *options])
        runpy.run_path(str(TOOLS / 'plot_grid.py'), run_name='__main__')
    assert capfd.readouterr().out.splitlines() == ['1 grids in one.png', '3 grids in sharing_grids.png']
    one, three = (cv2.imread(str(tmp_path / name)) for name in ('one.png', 'sharing_grids.png'))
    assert one.std() > 1 and three.std() > 1 and three.shape[1] > 2.5 * one.shape[1]
    assert 'must have the same number of values, got 2 and 3' in fail_tool('plot_grid.py', '--kernels', 13, 51, cwd=tmp_path)
    message = fail_tool('plot_grid.py', '--kernels', 12, '--centers', 5, cwd=tmp_path)
    assert 'kernel_size must be a positive odd integer, got 12' in message
