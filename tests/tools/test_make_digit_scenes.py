"""tools/make_digit_scenes.py writes a dataset with the given number of scenes."""

import json
import runpy
import sys

import cv2
from conftest import TOOLS


def test_scenes(monkeypatch, capfd, fail_tool, tmp_path):
    arguments = ['make_digit_scenes.py', str(tmp_path / 'scenes'), '--num-training', '3', '--num-validation', '2', '--size', '64']
    monkeypatch.setattr(sys, 'argv', arguments)
    runpy.run_path(str(TOOLS / 'make_digit_scenes.py'))['main']()
    assert 'digit scenes: 3 training, 2 validation, in ' in capfd.readouterr().out
    for split, count in (('training', 3), ('validation', 2)):
        images = sorted((tmp_path / 'scenes/images' / split).iterdir())
        assert len(images) == len(list((tmp_path / 'scenes/annotations' / split).iterdir())) == count
        assert cv2.imread(str(images[0])).shape == (64, 64, 3)
    files = sorted((tmp_path / 'scenes').rglob('*.json'))
    assert any(len(json.loads(path.read_text()).get('images', ())) == 3 for path in files)
    assert 'between 64 and 256 pixels, got 8' in fail_tool('make_digit_scenes.py', 'x', '--size', 8, cwd=tmp_path)
