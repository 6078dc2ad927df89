"""The config of keyed rows through tools/train.py and tools/test.py."""

import json
import runpy
import sys

import cv2
import numpy as np
import pytest
from conftest import CONFIGS, TOOLS

from mmpelk.datasets import make_keyed_rows


def run(monkeypatch, tool, *args):
    """Run a tool in this process."""
    monkeypatch.setattr(sys, 'argv', [tool, str(CONFIGS / 'demo/pelk_51_keyed_rows.py'), *map(str, args)])
    runpy.run_path(str(TOOLS / tool), run_name='__main__')


def test_training_and_testing(monkeypatch, tmp_path, safe_io):
    root = make_keyed_rows(tmp_path / 'data/keyed_rows', 8, 3)
    monkeypatch.chdir(tmp_path)
    options = ['--cfg-options', 'train_cfg.max_iters=4', 'train_cfg.val_interval=4', 'default_hooks.logger.interval=2']
    options += ['visualizer.name=keyed_rows_test', 'experiment_name=keyed_rows_test']  # mmengine keeps one visualizer per name
    run(monkeypatch, 'train.py', '--work-dir', 'work', *options)
    (scalars,) = (tmp_path / 'work').glob('*/vis_data/scalars.json')
    *training, validation = map(json.loads, scalars.read_text().splitlines())
    assert training[-1]['loss'] < 3

    run(monkeypatch, 'test.py', 'work/iter_4.pth', '--work-dir', 'tested', '--out', 'predictions')
    (metrics,) = (json.loads(path.read_text()) for path in (tmp_path / 'tested').glob('*/*.json'))
    for key in ('glyphs/left', 'glyphs/right', 'glyphs/all', 'glyphs/part_1', 'glyphs/part_8', 'mIoU'):
        assert metrics[key] == pytest.approx(validation[key])

    # Compute the accuracy again from the files, in which 0 is unlabeled.
    correct = labeled = 0
    for path in sorted((root / 'annotations/validation').iterdir()):
        truth, predicted = (cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in (path, tmp_path / 'predictions' / path.name))
        correct += np.count_nonzero((truth == predicted) & (truth > 0))
        labeled += np.count_nonzero(truth)
    assert metrics['glyphs/all'] == pytest.approx(100 * correct / labeled)
