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


@pytest.mark.parametrize('last', ['{"loss": 1.0, "st', '', 'null', '[1]', '{"loss": 1}', '{"loss": "x", "step": 3}'])
def test_a_cut_last_line_is_left_out_and_a_broken_line_before_is_an_error(tmp_path, last):
    path = tmp_path / 'run/vis_data/scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(f'{{"loss": 2.0, "step": 1}}\n{last}')
    assert list(read_scalars(tmp_path)[0]) == [1]
    path.write_text(f'{last}\n{{"loss": 2.0, "step": 1}}\n')
    with pytest.raises(InputError, match=r'line 1 of .*scalars.json is not a record of the training log'):
        read_scalars(tmp_path)
