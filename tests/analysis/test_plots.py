"""Plots show their data."""

import cv2
import numpy as np
from matplotlib import colormaps

from mmpelk.analysis import plots
from mmpelk.ops import SharingGrid


def colors(path):
    """Count the colors of a picture that cover at least 10 pixels."""
    picture = cv2.imread(str(path))
    assert picture is not None
    return int((np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)[1] >= 10).sum())


def bars(path, color):
    """Return the widths in pixels of the bars of a color, except bars that are too thin to see."""
    picture = cv2.imread(str(path))[..., ::-1]
    widths = (picture == color).all(-1).sum(1)
    return set(widths[widths > 0].tolist())


def test_breakdown(tmp_path):
    parts = {'stem and downsampling': 10**9, 'large kernels': 2 * 10**9, 'h': 1, 'MLP': 4 * 10**9}
    plots.draw_breakdown(parts, tmp_path / 'bars.png')
    stem, large, mlp = (
        max(bars(tmp_path / 'bars.png', color)) for color in ((0x88, 0xAA, 0xAA), (0xDD, 0x66, 0x66), (0x66, 0x88, 0xAA))
    )
    assert abs(large - 2 * stem) <= 4 and abs(mlp - 4 * stem) <= 8


def test_parameters(tmp_path):
    plots.draw_parameters(dict(dense={7: 1.0, 15: 9.0}), tmp_path / 'one.png')
    plots.draw_parameters(dict(dense={7: 1.0, 15: 9.0}, peripheral={7: 1.0, 15: 2.0}), tmp_path / 'two.png')
    assert colors(tmp_path / 'two.png') > colors(tmp_path / 'one.png') > 2


def test_grids(tmp_path):
    plots.draw_grids([SharingGrid.dense(51)], tmp_path / 'dense.png')
    plots.draw_grids([SharingGrid.dense(51), SharingGrid.peripheral(51)], tmp_path / 'both.png')
    dense, both = (cv2.imread(str(tmp_path / name))[..., ::-1] for name in ('dense.png', 'both.png'))
    assert both.shape[1] > 1.8 * dense.shape[1]
    # The four corner cells of the peripheral grid have 9x9 positions.
    corner = np.array(colormaps['YlGnBu_r'](np.log2(81) / 8, bytes=True)[:3])
    both, dense = ((np.abs(picture - corner) <= 2).all(-1).sum() for picture in (both.astype(int), dense.astype(int)))
    assert both > 1000 and dense == 0


def test_sweep(tmp_path):
    results = [
        dict(shape=(1, 2, 9, k), values=1, auto=dict(median=k / 10), native=dict(median=k / 20), copy=dict(median=0.1))
        for k in (7, 13)
    ]
    plots.draw_sweep(results, tmp_path / 'all.png', 'a device')
    without = [{key: value for key, value in result.items() if key != 'native'} for result in results]
    plots.draw_sweep(without, tmp_path / 'fewer.png', 'a device')
    assert colors(tmp_path / 'all.png') > colors(tmp_path / 'fewer.png') > 2
