"""The paper's evidence: counts against the paper, receptive fields against kernels that are known."""

import json
import re
import time
from functools import partial
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from torch import nn

from mmpelk.analysis import paper, timing
from mmpelk.analysis.complexity import complexity
from mmpelk.analysis.receptive_field import area_ratios, contribution_map, heat_map
from mmpelk.analysis.timing import interleaved
from mmpelk.ops import SharingGrid

LIMITS = dict(ConvNeXt=1.0, Swin=2.0, PeLK=4.0, SLaK=1.0, RepLKNet=1.0)
# One row of each family, table and size; `python tools/complexity.py` prints them all.
CHECKED = {
    (2, 'PeLK-T', (512, 2048)), (2, 'ConvNeXt-T', (512, 2048)), (2, 'SLaK-T', (512, 2048)),
    (3, 'PeLK-T', (800, 1280)), (4, 'PeLK-B', (384, 384)),
    (4, 'PeLK-B-101', (384, 384)), (4, 'ConvNeXt-T', (224, 224)), (4, 'Swin-T', (224, 224)),
    (4, 'RepLKNet-31B', (384, 384)),
}  # fmt: skip


@pytest.mark.parametrize(
    'row',
    [r for r in paper.ROWS if (r.table, r.method, r.size) in CHECKED],
    ids=lambda r: f'{r.table}-{r.method}',
)
def test_complexity_of_the_papers_rows(row):
    if row.table == 3:
        pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    count = complexity(Config.fromfile(CONFIGS / f'{row.config}.py'), row.size, row.density)
    limit = LIMITS[row.method.split('-')[0]]
    if row.method.startswith('PeLK-B'):
        limit = 1.0
    if not paper.explanation(row.table, row.method, f'{row.size[0]}x{row.size[1]}'):
        assert abs(count.kept_macs / 1e9 / row.gmacs - 1) * 100 < limit
    assert abs(count.kept_params / 1e6 - row.params) < 1
    assert count.kept_params <= count.params and count.kept_macs <= count.macs


def test_every_row_has_its_config_and_every_explanation_its_row():
    for row in paper.ROWS:
        assert row.config is None or (CONFIGS / f'{row.config}.py').exists()
    rows = {(row.table, row.method, f'{row.size[0]}x{row.size[1]}') for row in paper.ROWS}
    assert set(paper.EXPLANATIONS) <= rows


def test_ratios_of_tables_5_and_6_and_fig_2_to_the_printed_digit():
    for half, ratio, _ in paper.TABLE5:
        grid = SharingGrid.from_half(half)
        assert grid.kernel_size == 33 and round((grid.weight_size / 33) ** 2, 2) == ratio
    for center, half, percent, _ in paper.TABLE6:
        assert SharingGrid.peripheral(51, center).half == half and round(100 * center**2 / 51**2, 2) == percent
    assert round(51**2 / 7**2, 1) == paper.FIG2['dense'] and round(51 * 5 / (7 * 5), 1) == paper.FIG2['stripe']


def test_the_breakdown_of_fig_5():
    parts = complexity(Config.fromfile(CONFIGS / 'upernet_pelk_t_ade20k.py'), (512, 2048)).parts
    backbone = sum(parts[part] for part in ('stem and downsampling', 'large kernels', 'MLP', 'other'))
    assert parts['other'] == 0  # every multiply-add has its part
    assert abs(parts['large kernels'] / backbone - 0.25) < 0.01 and parts['h'] / backbone < 0.0005


def test_counting_by_hand():
    """Stage 1 of a small PeLK on 64x64: 16x16 positions."""
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(
                type='ImageClassifier',
                backbone=dict(
                    type='PeLK',
                    arch=dict(depths=(2, 1, 1, 1), channels=(16, 16, 16, 16)),
                    width_factor=1.0,
                    out_indices=(3,),
                    gap_before_final_norm=True,
                ),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=16),
            ),
        )
    )
    count = complexity(cfg, (64, 64), density=0.5)
    positions = [256, 64, 16, 4]
    large = sum(6 * depth * n * k * k for depth, n, k in zip((2, 1, 1, 1), positions, (51, 49, 47, 13), strict=True))
    mlp = sum(depth * n * 2 * 16 * 64 for depth, n in zip((2, 1, 1, 1), positions, strict=True))
    stem = 256 * 16 * 3 * 16 + sum(n * 16 * 16 * 4 for n in positions[1:])
    assert count.parts['large kernels'] == large and count.parts['MLP'] == mlp and count.parts['stem and downsampling'] == stem
    assert count.macs == large + mlp + stem + 16 * 10 and count.kept_macs == count.macs / 2
    assert count.parts['h'] == 6 * (2 * 51**2 + 49**2 + 47**2 + 13**2)


class Blur(nn.Module):
    """Every position sees a square of this size around it, evenly."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, x):
        return (nn.functional.avg_pool2d(x, self.size, 1, self.size // 2),)


@pytest.mark.parametrize('size', [1, 5, 21])
def test_receptive_field_of_a_known_kernel(size):
    contribution = contribution_map(Blur(size), [torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)])
    rows, columns = np.nonzero(contribution)
    assert (np.ptp(rows), np.ptp(columns)) == (size - 1, size - 1) and rows.min() == 32 - size // 2
    ratios = area_ratios(contribution)
    assert ratios[0.99] == pytest.approx((size / 64) ** 2)
    assert all(a <= b for a, b in pairwise(ratios.values()))
    inner = next(r for r in range(64) if (2 * r + 1) ** 2 > 0.2 * size**2)
    assert ratios[0.2] == pytest.approx(((2 * inner + 1) / 64) ** 2)
    picture = heat_map(contribution, 64)
    assert picture.shape == (64, 64, 3) and picture[32, 32].sum() > picture[0, 0].sum()


def test_times_are_taken_in_turn(monkeypatch):
    monkeypatch.setattr(timing, 'TURN', 0.0)
    calls = []
    times = interleaved({name: partial(calls.append, name) for name in 'ab'}, rounds=3)
    assert calls == ['a', 'b'] * 4 and set(times) == {'a', 'b'}
    assert times['a'].rounds == 3 and times['a'].fastest <= times['a'].median <= times['a'].slowest
    slow = interleaved({'slow': lambda: time.sleep(0.02), 'fast': lambda: None}, rounds=4, budget=0.05)
    assert slow['slow'].rounds < 4 and slow['fast'].rounds == 4


def test_the_benchmarks(run_tool, fail_tool, tmp_path):
    quick = ['--rounds', 1, '--budget', 0.01, '--device', 'cpu', '--out', tmp_path]
    printed = run_tool('benchmark.py', 'op', '--shape', 1, 3, 9, 31, '--backward', *quick)
    assert '| (1, 3, 9, 31) |' in printed and 'forward and backward' in printed
    record = json.loads((tmp_path / 'op_backward.json').read_text())
    assert record['milliseconds'][0]['auto']['rounds'] == 1 and {'device', 'torch', 'date', 'command'} <= set(record)
    assert 'the last one odd, got (1, 3, 9, 30)' in fail_tool('benchmark.py', 'op', '--shape', 1, 3, 9, 30, cwd=tmp_path)
    assert '--size must be at least 32, got 16' in fail_tool('benchmark.py', 'train', '--size', 16, cwd=tmp_path)


def test_the_tools(run_tool, fail_tool, tmp_path):
    small = ['--cfg-options', 'model.backbone.arch=atto', 'model.head.in_channels=416']
    config = CONFIGS / 'pelk_t_in1k.py'
    printed = run_tool('complexity.py', config, '--size', 64, 96, '--density', 0.6, *small)
    assert re.search(r'multiply-adds +\d+\.\d+ G, kept at density 0.6', printed)
    (tmp_path / 'images').mkdir()
    cv2.imwrite(str(tmp_path / 'images/a.png'), np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    arguments = ['--images', 'images', '--size', 96, '--out', 'field.png', *small, 'model.backbone.layer_scale_init_value=1.0']
    printed = run_tool('receptive_field.py', config, *arguments)
    assert '1 images of 96x96' in printed and cv2.imread(str(tmp_path / 'field.png')).std() > 1
    assert set(json.loads((tmp_path / 'field.json').read_text())) == {'0.2', '0.3', '0.5', '0.99'}
    assert 'must lie in (0, 1], got 2.0' in fail_tool('complexity.py', config, '--density', 2, cwd=tmp_path)
    assert 'image folder none does not exist' in fail_tool('receptive_field.py', config, '--images', 'none', cwd=tmp_path)
    assert '--batch must be positive, got 0' in fail_tool('benchmark.py', 'model', '--batch', 0, cwd=tmp_path)
    assert 'data/digits does not exist' in fail_tool('train_evidence.py', cwd=tmp_path)
