"""The comparison of kernels on keyed rows: variants, configs, and tables."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmpelk.analysis import reach_comparison
from mmpelk.analysis.paper import TABLE5, TABLE6
from mmpelk.analysis.reach_comparison import ABLATIONS, VARIANTS, Run, mean_and_spread, results_as_markdown, run_config, runs
from mmpelk.models.token_mixer import StripeConv


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    """Prevent the scenes from being written."""
    monkeypatch.setattr(reach_comparison, 'make_keyed_rows', lambda root, **settings: root)


def backbone_of(name):
    init_default_scope('mmseg')
    with torch.device('meta'):
        return MODELS.build(run_config(Run(128, name, 0), 100, Path('root')).model.backbone)


@pytest.mark.parametrize('name', [*VARIANTS, *ABLATIONS])
def test_variants_have_equal_depths_and_widths(name):
    backbone = backbone_of(name)
    assert backbone.depths == (2, 2, 2, 1) and backbone.channels == (32, 48, 64, 96)


def test_kernels():
    sizes = {name: [grid.kernel_size for grid in backbone_of(name).grids] for name in VARIANTS}
    assert sizes == {
        'ConvNeXt-like 7': [7, 7, 7, 7],
        'stripe 51': [51, 49, 47, 13],
        'dense 51': [51, 49, 47, 13],
        'peripheral 13': [13, 13, 13, 13],
        'peripheral 31': [31, 29, 27, 13],
        'peripheral 51': [51, 49, 47, 13],
        'peripheral 101': [101, 69, 67, 13],
    }
    mixers = {name: backbone_of(name).stages[0][0].token_mixer for name in (*VARIANTS, *ABLATIONS)}
    assert isinstance(mixers['stripe 51'].large, StripeConv)
    assert mixers['ConvNeXt-like 7'].small is None and mixers['ConvNeXt-like 7'].conv_channels == 32
    assert mixers['dense 51'].large.grid.half == (1,) * 26 and mixers['dense 51'].conv_channels == 32
    assert mixers['peripheral 51'].conv_channels == 12 and mixers['peripheral 51'].pos_embed is None
    assert mixers['with h'].pos_embed is not None and mixers['no small branch'].small is None
    assert mixers['all channels'].conv_channels == 32
    for number, (half, _, _) in enumerate(TABLE5, 1):
        assert mixers[f'grid {number}'].large.grid.half == half
    for center, half, *_ in TABLE6:
        assert mixers['peripheral 51' if center == 5 else f'center {center}'].large.grid.half == half


def test_configs():
    cfg = run_config(Run(96, 'peripheral 101', 2), 50, Path('root'))
    assert cfg.randomness.seed == 2 and cfg.work_dir == 'root/50i/96/peripheral_101/2'
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == cfg.param_scheduler[1].end == 50
    assert cfg.param_scheduler[0].end == cfg.param_scheduler[1].begin == 5
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == 'root/data/96'
    assert cfg.model.data_preprocessor.size == (96, 96)
    assert reach_comparison.checkpoint(Run(96, 'with h', 1), 50, Path('root')) == Path('root/50i/96/with_h/1/iter_50.pth')


def test_order_of_the_runs():
    order = [str(run) for run in runs([128, 96], ['a', 'b'], 2)]
    assert order == ['128/a/0', '128/b/0', '128/a/1', '128/b/1', '96/a/0', '96/b/0', '96/a/1', '96/b/1']


def test_tables():
    results = {
        '96/a/0': dict(left=90.0, right=50.0, cpu_seconds=10.0),
        '96/a/1': dict(left=92.0, right=60.0, cpu_seconds=12.0),
        '96/b/1': dict(left=1.0, right=2.0, cpu_seconds=3.0),
        '64/b/0': dict(left=0.0, right=0.0, cpu_seconds=0.0),
    }
    table = results_as_markdown(results, {'96/a': 120}, [96], ['a', 'b', 'c'], 2).splitlines()
    assert table[0] == '96 px, 4 rows:'
    assert table[4:] == [
        '| a | 2 | 91.0 ± 1.4 | 55.0 ± 7.1 | 11.0 ± 1.4 | 120 |',
        '| b | 1 | 1.0 | 2.0 | 3.0 | - |',
    ]
    assert mean_and_spread([1.0]) == '1.0'
