"""Ways to continue training a ConvNeXt with 7x7 kernels: what is trained, and the table."""

import json
from functools import partial

import pytest

from mmpelk.analysis import growing_comparison, reach_comparison
from mmpelk.analysis.growing_comparison import WAYS, results_as_markdown, train, way_config
from mmpelk.checkpoints import model_weights, read_checkpoint
from mmpelk.datasets import make_keyed_rows


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(reach_comparison, 'make_keyed_rows', partial(make_keyed_rows, num_training=8, num_validation=2))
    monkeypatch.setattr(growing_comparison, 'SIZE', 64)
    monkeypatch.setattr(growing_comparison, 'START', 10)
    ways = {name: way._replace(iterations=10 if way.iterations != 140 else 20) for name, way in WAYS.items()}
    monkeypatch.setattr(growing_comparison, 'WAYS', ways)


def test_every_way_goes_on_from_the_same_start(small, tmp_path):
    results = {f'{name}/0': train(name, 0, tmp_path) for name in ('start: 7x7', 'grown, SharedStepsHook')}
    assert all(0 <= value <= 100 for result in results.values() for value in result.values())
    start = tmp_path / 'start_7x7_0/iter_10.pth'
    for name in ('7x7', 'grown', 'grown, SharedStepsHook'):
        cfg = way_config(name, 0, tmp_path)
        assert cfg.load_from == str(start) and cfg.optim_wrapper.optimizer.lr == 5e-4
        assert [hook.type for hook in cfg.custom_hooks if 'Shared' in hook.type] == ['SharedStepsHook'] * ('Shared' in name)
    # The center has moved away from its initial value, and a cell of 1x2 taps beside it away from 0.
    grown, old = (model_weights(read_checkpoint(path), '') for path in (tmp_path / 'grown_SharedStepsHook_0/iter_10.pth', start))
    name = 'backbone.stages.0.0.depthwise_conv.weight'
    moved = (grown[name][..., 4:-4, 4:-4] - old[name]).abs()
    assert 0 < moved.max() < 0.01 and 0 < grown[name][..., 3, 7].abs().max() < moved.max()


def test_table():
    results = {'7x7/0': dict(left=50.0, right=20.0), '7x7/1': dict(left=60.0, right=22.0), 'grown/0': dict(left=1.0, right=2.0)}
    table = results_as_markdown(json.loads(json.dumps(results)), 2)
    assert table.splitlines()[2:] == [
        '| 7x7 | 80 + 60 | 55.0 ± 7.1 | 21.0 ± 1.4 | 20.0, 22.0 |',
        '| grown | 80 + 60 | 1.0 | 2.0 | 2.0 |',
    ]
