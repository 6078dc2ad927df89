"""tools/make_digits.py writes a dataset and refuses to overwrite another one."""

import runpy
import sys

import cv2
from conftest import TOOLS


def test_digits(monkeypatch, capfd, fail_tool, tmp_path):
    monkeypatch.setattr(sys, 'argv', ['make_digits.py', str(tmp_path / 'digits'), '--size', '32', '--copies', '1', '--seed', '3'])
    runpy.run_path(str(TOOLS / 'make_digits.py'))['main']()
    assert f'digits in {tmp_path / "digits"}' in capfd.readouterr().out
    assert [path.name for path in sorted((tmp_path / 'digits/train').iterdir())] == list('0123456789')
    images = list((tmp_path / 'digits').glob('*/*/*.jpg'))
    assert len(images) == 1797  # one of each digit in scikit-learn's dataset
    assert cv2.imread(str(images[0])).shape == (32, 32, 3)
    assert 'digits' in fail_tool('make_digits.py', 'digits', '--size', 64, cwd=tmp_path)
    assert 'copies must be at least 1, got 0' in fail_tool('make_digits.py', 'other', '--copies', 0, cwd=tmp_path)
    assert not (tmp_path / 'other').exists()
