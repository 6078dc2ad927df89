import numpy as np
import pytest
import torch
from mmengine.registry import METRICS

from mmpelk.datasets.keyed_rows_metric import AccuracyOverDistance


def sample(truth, predicted):
    return dict(
        gt_sem_seg=dict(data=torch.tensor(truth)[None]),
        pred_sem_seg=dict(data=torch.tensor(predicted)[None]),
    )


def test_accuracy_over_distance():
    metric = AccuracyOverDistance(parts=4)
    assert METRICS.get('AccuracyOverDistance') is AccuracyOverDistance
    # Each part has two of the eight columns. Pixels with 255 are not labeled, so predictions there are ignored.
    metric.process({}, [sample([[0, 1, 255, 255, 2, 2, 3, 3]], [[0, 0, 1, 0, 2, 2, 3, 0]])])
    metric.process({}, [sample([[1, 1, 255, 255, 255, 0, 255, 255]] * 2, [[1, 1, 0, 0, 0, 1, 0, 0]] * 2)])
    metrics = metric.evaluate(2)
    assert metrics['glyphs/part_1'] == pytest.approx(100 * 5 / 6) and np.isnan(metrics['glyphs/part_2'])
    assert metrics['glyphs/part_3'] == pytest.approx(100 * 2 / 4) and metrics['glyphs/part_4'] == 50
    assert metrics['glyphs/left'] == metrics['glyphs/part_1'] and metrics['glyphs/right'] == pytest.approx(100 * 3 / 6)
    assert metrics['glyphs/all'] == pytest.approx(100 * 8 / 12)


@pytest.mark.parametrize('width', [5, 12])
def test_parts_cover_widths_that_they_do_not_divide(width):
    metric = AccuracyOverDistance(parts=8)
    metric.process({}, [sample([[0] * width], [[0] * (width - 1) + [1]])])
    metrics = metric.evaluate(1)
    assert metrics['glyphs/all'] == pytest.approx(100 * (width - 1) / width) and metrics['glyphs/left'] == 100


@pytest.mark.parametrize('parts', [0, 3, -2])
def test_bad_parts(parts):
    with pytest.raises(ValueError, match=f'parts must be a positive even number, got {parts}'):
        AccuracyOverDistance(parts=parts)
