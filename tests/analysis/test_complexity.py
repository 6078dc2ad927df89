"""Compare counts with the paper, and with a count by hand."""

import subprocess
import sys

import pytest
from conftest import CONFIGS, tool_env
from mmengine.config import Config

from mmpelk.analysis import paper
from mmpelk.analysis.complexity import complexity

LIMITS = dict(ConvNeXt=1.0, Swin=2.0, PeLK=4.0, SLaK=1.0, RepLKNet=1.0)
# One row for each family, table, and size. `python tools/complexity.py` prints all rows.
CHECKED = {
    (2, 'PeLK-T', (512, 2048)), (2, 'ConvNeXt-T', (512, 2048)), (2, 'SLaK-T', (512, 2048)),
    (3, 'PeLK-T', (800, 1280)), (4, 'PeLK-B', (384, 384)),
    (4, 'PeLK-B-101', (384, 384)), (4, 'ConvNeXt-T', (224, 224)), (4, 'Swin-T', (224, 224)),
    (4, 'RepLKNet-31B', (384, 384)),
}  # fmt: skip
LIGHT_IMPORT = """
import sys
import mmpelk.analysis.complexity_tables
import mmpelk.engine.config
print([name for name in ('mmpelk.engine.runner', 'mmpelk.engine.preflight') if name in sys.modules])
"""


@pytest.mark.parametrize(
    'row',
    [r for r in paper.ROWS if (r.table, r.method, r.size) in CHECKED],
    ids=lambda r: f'{r.table}-{r.method}',
)
def test_rows_of_the_paper(row):
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


def test_breakdown_of_fig_5():
    parts = complexity(Config.fromfile(CONFIGS / 'upernet_pelk_t_ade20k.py'), (512, 2048)).parts
    backbone = sum(parts[part] for part in ('stem and downsampling', 'large kernels', 'MLP', 'other'))
    assert parts['other'] == 0  # every multiply-add belongs to a named part
    assert abs(parts['large kernels'] / backbone - 0.25) < 0.01 and parts['h'] / backbone < 0.0005


def test_count_by_hand():
    """On 64x64 pixels, stage 1 of a small PeLK has 16x16 positions."""
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
    depths = (2, 1, 1, 1)
    large = sum(6 * depth * n * k * k for depth, n, k in zip(depths, positions, (51, 49, 47, 13), strict=True))
    mlp = sum(depth * n * 2 * 16 * 64 for depth, n in zip(depths, positions, strict=True))
    stem = 256 * 16 * 3 * 16 + sum(n * 16 * 16 * 4 for n in positions[1:])
    assert count.parts['large kernels'] == large and count.parts['MLP'] == mlp and count.parts['stem and downsampling'] == stem
    assert count.macs == large + mlp + stem + 16 * 10 and count.kept_macs == count.macs / 2
    assert count.parts['h'] == 6 * (2 * 51**2 + 49**2 + 47**2 + 13**2)


def test_reading_a_config_imports_no_runner():
    result = subprocess.run([sys.executable, '-c', LIGHT_IMPORT], env=tool_env(), capture_output=True, text=True)
    assert result.stdout.strip().endswith('[]'), result.stdout + result.stderr
