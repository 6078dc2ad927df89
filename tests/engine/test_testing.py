"""What a test lacks is named before data are read. tests/tools tests with each framework."""

import pytest
from mmengine.config import Config

from mmpelk.engine import testing
from mmpelk.utils.errors import InputError

PARTS = dict(test_dataloader=dict(dataset={}), test_cfg={}, test_evaluator=dict(type='Accuracy'))


def config(scope='mmseg', **parts):
    others = dict(default_scope=scope, default_hooks={}, model=dict(type='EncoderDecoder'))
    return Config(PARTS | others | parts, cfg_text='# x', filename='x.py')


@pytest.mark.parametrize('key', PARTS)
def test_missing_parts(key):
    with pytest.raises(InputError, match=f'^config x.py has no {key}$'):
        testing.test(config(**{key: None}), 'x.pth')


@pytest.mark.parametrize('key', ['tta_model', 'tta_pipeline'])
def test_augmentation_needs_its_model_and_pipeline(key):
    with pytest.raises(InputError, match=f'--tta needs {key} in x.py'):
        testing.test(config(**(dict(tta_model={}, tta_pipeline=[]) | {key: None})), 'x.pth', tta=True)


def test_drawing_needs_a_hook():
    with pytest.raises(InputError, match='--show-dir needs default_hooks.visualization in the config'):
        testing.test(config(), 'x.pth', show_dir='drawn')


@pytest.mark.parametrize('scope', ['mmdet', 'mmpretrain'])
def test_predictions_of_detectors_and_classifiers_go_to_a_pickle(scope):
    with pytest.raises(InputError, match=f'--out must be a .pkl file for {scope}, got predictions'):
        testing.test(config(scope), 'x.pth', out='predictions')


def test_label_maps_are_written_by_the_metric_of_the_labels():
    """Another metric may come first."""
    metrics = [dict(type='AccuracyOverDistance'), dict(type='IoUMetric')]
    cfg = config(test_evaluator=metrics)
    testing._set_output(cfg, 'maps')
    assert cfg.test_evaluator == [dict(type='AccuracyOverDistance'), dict(type='IoUMetric', output_dir='maps')]
