"""The pictures of the comparison on keyed rows show their data."""

import cv2
import numpy as np
import pytest
import torch

from mmpelk.analysis import reach_pictures
from mmpelk.analysis.reach_pictures import Scene, paint, predict, read_scenes, receptive_field
from mmpelk.datasets import COLOR_PALETTE, make_keyed_rows

# The first two colors of matplotlib's cycle, as RGB.
FIRST, SECOND = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)


def pixels(path, color):
    """Return the (row, column) of each pixel of a color in the left half of a picture. The legend is on the right."""
    picture = cv2.imread(str(path))[..., ::-1]
    return np.argwhere((picture[:, : picture.shape[1] // 2] == color).all(-1))


def test_accuracy_over_kernel_size(tmp_path):
    results = {f'{size}/a {kernel}/0': dict(right=100.0 - kernel) for size in (96, 64) for kernel in (7, 51)}
    results['96/a 7/1'] = dict(right=91.0)
    reach_pictures.draw_over_kernel_size(results, [96, 64], ['a 7', 'a 51', 'missing 13'], 2, tmp_path / 'plot.png')
    line = pixels(tmp_path / 'plot.png', FIRST)
    left, right = (line[line[:, 1] == column][:, 0].mean() for column in (line[:, 1].min(), line[:, 1].max()))
    assert left < right - 100  # rows count from the top
    del results['96/a 51/0']
    reach_pictures.draw_over_kernel_size(results, [96, 64], ['a 7', 'a 51'], 2, tmp_path / 'fewer.png')
    assert len(pixels(tmp_path / 'fewer.png', FIRST)) < len(line) / 2


def test_accuracy_over_distance(tmp_path):
    results = {f'{size}/{name}/0': dict(parts=parts) for size in (96, 64) for name, parts in
               dict(a=[None, *(90.0 - i for i in range(7))], b=[30.0] * 8).items()}  # fmt: skip
    reach_pictures.draw_over_distance(results, [96, 64], ['a', 'b', 'missing'], 1, tmp_path / 'plot.png')
    first, second = (pixels(tmp_path / 'plot.png', color) for color in (FIRST, SECOND))
    assert first[:, 0].max() < second[:, 0].min()
    assert first[first[:, 1].argmin(), 0] < first[first[:, 1].argmax(), 0]


def test_paint():
    labels = np.zeros((32, 32), np.uint8)
    labels[10, 20], labels[11, 30] = 1, 3
    image = np.full((32, 32, 3), 100, np.uint8)
    picture = paint(Scene(image, labels), np.full((32, 32), 2, np.uint8))
    assert tuple(picture[10, 20]) == tuple(picture[11, 30]) == COLOR_PALETTE[1]
    assert (picture[:, :8] == 100).all() and (picture[0, 8:] == 50).all()
    assert Scene(image, labels).far_glyph() == (11, 30)


def test_scenes_are_read(tmp_path):
    root = make_keyed_rows(tmp_path / 'rows', 1, 3, size=64, rows=3)
    scenes = read_scenes(root, 2)
    assert len(scenes) == 2
    for scene in scenes:
        assert scene.image.shape == (64, 64, 3) and scene.labels.shape == (64, 64)
        row, column = scene.far_glyph()
        assert scene.labels[row, column] > 0 and not scene.labels[:, column + 1 :].any() and column > 32
    key = scenes[0].image[:, 4].astype(int)
    assert np.ptp(key, axis=1).max() > 60  # keys are colored, whether the order is RGB or BGR
    first = scenes[0].labels.max(1).nonzero()[0][0]  # the first row with glyphs, whose key has their color
    color = COLOR_PALETTE[scenes[0].labels[first].max() - 1]
    assert np.abs(key - color).sum(1).min() < 60


class Shifted(torch.nn.Module):
    """A segmentor of two classes that sees only the pixel 16 to the left, and predicts class 1 if that pixel is bright."""

    def __init__(self):
        super().__init__()
        self.data_preprocessor = torch.nn.Module()
        self.data_preprocessor.mean, self.data_preprocessor.std = torch.full((3, 1, 1), 100.0), torch.ones(3, 1, 1)
        self.weight = torch.nn.Parameter(torch.ones(()))

    def extract_feat(self, x):
        return x

    def decode_head(self, x):
        seen = x.mean(1, keepdim=True).roll(16, 3) * self.weight
        return torch.cat([-seen, seen], 1)

    def predict(self, x):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        return [SegDataSample(pred_sem_seg=PixelData(data=self.decode_head(x).argmax(1)))]


def test_predictions_and_fields():
    pytest.importorskip('mmseg')
    image = np.full((64, 64, 3), 50, np.uint8)
    image[20:30, 10:20] = 250
    expected = np.zeros((64, 64), np.uint8)
    expected[20:30, 26:36] = 1
    assert np.array_equal(predict(Shifted(), image), expected)
    field = receptive_field(Shifted(), image, (25.5 / 64, 30.5 / 64)).astype(int)
    dark = receptive_field(Shifted(), np.full((64, 64, 3), 50, np.uint8), (0.99, 0.99)).astype(int)
    assert field.shape == (256, 256, 3)
    brightest = np.unravel_index((field[:200].sum(-1) - dark[:200].sum(-1))[:, :90].argmax(), (200, 90))
    assert 4 * 25 <= brightest[0] < 4 * 26 and 4 * 14 <= brightest[1] < 4 * 15
