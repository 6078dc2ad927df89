"""The variants of the kernel comparison, and the table of its results."""

import json

import cv2
import numpy as np
import pytest
from mmengine.registry import MODELS, init_default_scope

from mmpelk.analysis import kernel_comparison
from mmpelk.analysis.kernel_comparison import VARIANTS, Variant, results_as_markdown, run_config, train_variant
from mmpelk.analysis.paper import TABLE5
from mmpelk.models.token_mixer import StripeConv


@pytest.mark.parametrize('name', ['form: stripe 51', 'form: dense 51', 'grid 5: [8, 4, 2, 1, 1, 1]'])
def test_config(name, tmp_path):
    cfg = run_config(name, 7, 4, tmp_path)
    assert cfg.randomness.seed == 7 and cfg.train_cfg.max_epochs == cfg.param_scheduler[1].end == 4
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']  # no sparsity
    init_default_scope('mmpretrain')
    backbone = MODELS.build(cfg.model.backbone)
    large = backbone.stages[0][0].token_mixer.large
    if 'stripe' in name:
        assert isinstance(large, StripeConv)
    else:
        assert large.grid.half == ((1,) * 26 if 'dense' in name else TABLE5[4][0])


def test_training(tmp_path, monkeypatch, safe_io):
    """A small model is trained for two epochs. A second call resumes from the end, and finds the same accuracy in the log."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 64), ('val', 20)):
        for index in range(count):
            folder = tmp_path / f'data/digits/{split}/{index % 10}'
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f'{index}.png'), rng.integers(0, 256, (32, 32), dtype=np.uint8))
    monkeypatch.chdir(tmp_path)
    small = dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(32, 32, 32, 320)), pos_embed=None)
    monkeypatch.setitem(kernel_comparison.VARIANTS, 'small', Variant(small, None))
    top1 = train_variant('small', 0, 2, tmp_path)
    (log,) = (tmp_path / '2e/small_0').glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert [round(record['accuracy/top1'], 2) for record in records if 'loss' not in record] == [top1]
    assert train_variant('small', 0, 2, tmp_path) == top1


def test_results():
    results = {
        'form: dense 51/0': 90.0,
        'form: dense 51/1': 92.0,
        'grid 1: ' + str([1] * 17) + '/0': 80.0,
        'form: dense 51/2': 0.0,
    }
    header, _, dense, grid = results_as_markdown(results, 2, 3).splitlines()
    assert '3 epochs, 2 seeds' in header
    assert dense == '| form: dense 51 | 91.0 ± 1.4 | 81.6 |'
    assert grid.endswith('| 80.0 | 81.4 |')
    assert set(results_as_markdown({}, 2, 3).splitlines()) == {header, '|---|---|---|'}
    assert len(VARIANTS) == 3 + len(TABLE5)
