"""How large an image may be for a prediction."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import SEGMENTOR, save_model

from mmpelk.apis import init_model, predict
from mmpelk.apis.images import MAX_PIXELS
from mmpelk.utils.memory import measured_peak

MODULE = import_module('mmpelk.apis.inference')  # mmpelk.apis.inference is a function
pytestmark = pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs /proc')


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
