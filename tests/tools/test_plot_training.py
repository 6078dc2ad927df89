"""tools/plot_training.py draws the losses and metrics of a log."""

import json
import runpy
import sys

import cv2
import pytest
from conftest import TOOLS

# The first two colors of matplotlib's cycle, as RGB.
FIRST, SECOND = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Write a log, and draw it as the tool does."""

    def run(records):
        log = tmp_path / 'work/20260101_000000/vis_data/scalars.json'
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text('\n'.join(map(json.dumps, records)))
        monkeypatch.setattr(sys, 'argv', ['plot_training.py', str(tmp_path / 'work')])
        runpy.run_path(str(TOOLS / 'plot_training.py'))['main']()
        return cv2.imread(str(tmp_path / 'work/curves.png'))

    return run


def count(picture, color):
    """Count the pixels of a color in the left and in the right half."""
    hits = (picture[..., ::-1] == color).all(-1)
    middle = hits.shape[1] // 2
    return int(hits[:, :middle].sum()), int(hits[:, middle:].sum())


def test_curves(draw, capsys):
    losses = [dict(step=step, loss=10.0 / step, lr=0.1) for step in (10, 20, 30)]
    left, right = count(draw(losses), FIRST)
    assert left > 100 and right == 0  # losses are on the left
    left, right = count(draw([*losses, dict(step=10, mIoU=1.0), dict(step=30, mIoU=3.0)]), FIRST)
    assert left > 100 and right > 100  # metrics are on the right
    left, right = count(draw([dict(record, decode_loss=5.0) for record in losses]), SECOND)
    assert left > 100 and right == 0
    assert 'curves in ' in capsys.readouterr().out


def test_no_log(fail_tool, tmp_path):
    assert 'has no training log' in fail_tool('plot_training.py', tmp_path, cwd=tmp_path)
