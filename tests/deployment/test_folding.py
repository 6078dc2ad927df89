"""Folding reports and limits how much the outputs change. tests/tools/test_deployment.py folds through the command line."""

import pytest
import torch
from small_models import CLASSIFIER, save_model
from torch import nn

from mmpelk.apis import load_model
from mmpelk.deployment import fold
from mmpelk.deployment.folding import relative_difference
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError


@pytest.fixture
def model(tmp_path):
    config, checkpoint = save_model(tmp_path, 'model', CLASSIFIER)
    return load_model(read_config(str(config)), checkpoint, 'cpu')


@pytest.mark.parametrize('keep_grid', [False, True])
def test_outputs_stay_the_same(model, keep_grid):
    images = torch.randn(1, 3, 64, 96)
    expected = model.backbone(images)[0].detach()
    assert fold(model, keep_grid) < 1e-5
    torch.testing.assert_close(model.backbone(images)[0], expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.backbone.modules())


def test_outputs_that_are_nan_are_refused(model):
    nn.init.constant_(model.backbone.stages[1][0].norm.weight, float('nan'))
    with pytest.raises(InputError, match='changes the outputs by nan'):
        fold(model)


def test_a_model_without_large_kernels_is_refused():
    with pytest.raises(InputError, match='has neither a PeLK nor a backbone with grown kernels to fold'):
        fold(nn.Conv2d(3, 3, 1))


def test_relative_difference():
    one, two = torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0])
    assert relative_difference([one, one], [one, one]) == 0
    assert relative_difference([one, two], [one, one]) == 0.25
    assert relative_difference([one], [two]) == pytest.approx(1 / 3)
    assert relative_difference([torch.tensor([float('nan')])], [torch.ones(1)]) != 0
