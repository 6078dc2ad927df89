"""Predictions on folders and arrays, and how large an image may be."""

from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_models import CLASSIFIER, SEGMENTOR, save_model

from mmpelk.apis import inference, init_model, predict
from mmpelk.apis.images import MAX_PIXELS
from mmpelk.utils.memory import measured_peak

MODULE = import_module('mmpelk.apis.inference')  # mmpelk.apis.inference is a function


@pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs /proc')
def test_a_prediction_fits_into_half_of_the_free_memory(tmp_path, monkeypatch):
    text = SEGMENTOR.replace('decode_head=dict(', 'decode_head=dict(num_classes=150, ')  # the logits take most of the memory
    inferencer = init_model(*save_model(tmp_path, 'seg', text), 'cpu')
    monkeypatch.setattr(MODULE, 'free_memory', lambda device: 2**30)
    size = int(MODULE.max_pixels(inferencer) ** 0.5)
    with measured_peak(torch.device('cpu')) as peak:
        predict(inferencer, np.zeros((size, size, 3), np.uint8))
    assert 2**28 < peak[0] < 1.25 * 2**29
    monkeypatch.setattr(MODULE, 'free_memory', lambda device: 2**50)
    assert MODULE.max_pixels(inferencer) == MAX_PIXELS


def test_folders_and_arrays(tmp_path):
    """A folder gives a sample for each image, an array one, and classifiers scores for each class."""
    rng = np.random.default_rng(0)
    for name in ('b', 'a'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    (tmp_path / 'models').mkdir()
    segmentor = init_model(*save_model(tmp_path / 'models', 'seg', SEGMENTOR), 'cpu')
    samples = inference(segmentor, tmp_path, tmp_path / 'drawn', progress=False)
    assert {path.name for path in (tmp_path / 'drawn').iterdir()} == {'a.png', 'b.png'}
    for name, sample in zip('ab', samples, strict=True):
        (alone,) = inference(segmentor, cv2.imread(str(tmp_path / f'{name}.png')), progress=False)
        assert torch.equal(sample.pred_sem_seg.data, alone.pred_sem_seg.data) and 'seg_logits' not in sample
    classifier = init_model(*save_model(tmp_path / 'models', 'cls', CLASSIFIER), 'cpu')
    (sample,) = inference(classifier, np.zeros((64, 64, 3), np.uint8), progress=False)
    assert sample.pred_score.shape == (10,)
