"""Logs of runs that were interrupted and resumed."""

import json

import pytest

from mmpelk.analysis.training_log import read_scalars
from mmpelk.utils.errors import InputError


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    for run, records in (
        ('20260101_000000', [dict(step=1, loss=3.0), dict(step=2, loss=2.0), dict(step=2, mIoU=10.0)]),
        ('20260101_000100', [dict(step=2, loss=1.5), dict(step=3, loss=1.0)]),
    ):
        (tmp_path / run / 'vis_data').mkdir(parents=True)
        (tmp_path / run / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, records)) + '\n')
    training, validation = read_scalars(tmp_path)
    assert {step: record['loss'] for step, record in training.items()} == {1: 3.0, 2: 1.5, 3: 1.0}
    assert validation == {2: dict(step=2, mIoU=10.0)}


def test_no_log(tmp_path):
    with pytest.raises(InputError, match='has no training log'):
        read_scalars(tmp_path)
