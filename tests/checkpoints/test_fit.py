import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

import mmpelk.models.state_dict as state_dict
from mmpelk.checkpoints import check_fit
from mmpelk.models import PeLK
from mmpelk.utils.errors import InputError

ARCH = dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16))


def test_names_and_shapes():
    model = nn.Linear(2, 3)
    good = model.state_dict()
    check_fit(good, model, 'x.pth')
    check_fit({**good, 'more': torch.zeros(1)}, model, 'x.pth', strict=False)
    check_fit({'weight': good['weight']}, model, 'x.pth', strict=False)
    for weights, message in (
        ({**good, 'more': torch.zeros(1)}, r'1 are unexpected \(more\)'),
        ({'weight': good['weight']}, r'of 2 tensors, 1 fit, 1 are missing \(bias\)'),
        ({**good, 'bias': torch.zeros(4)}, r'1 have another shape \(bias is \(4,\), the model needs \(3,\)\)'),
    ):
        with pytest.raises(InputError, match=message):
            check_fit(weights, model, 'x.pth')
    with pytest.raises(InputError, match='x.pth is of another model: of 2 tensors, 0 fit'):
        check_fit({}, model, 'x.pth', strict=False)


def test_kernels_of_other_grids_fit_and_are_resized_once(monkeypatch):
    """The check works on shapes alone. Only loading resizes values."""
    weights = PeLK(ARCH).state_dict()
    larger = PeLK(ARCH, kernel_sizes=(53, 49, 47, 13))
    resized = []
    resize = state_dict.resize_weight
    monkeypatch.setattr(
        state_dict, 'resize_weight', lambda weight, *args: resized.append(weight.is_meta) or resize(weight, *args)
    )
    check_fit(weights, larger, 'x.pth')
    assert resized == [True]
    larger.load_state_dict(weights)
    assert resized == [True, False]
    with pytest.raises(InputError, match='was trained with other kernels .stage 1: kernels 51x51'):
        check_fit(weights, larger, 'x.pth', resize=False)


def test_a_kernel_that_does_not_match_its_grid():
    weights = PeLK(ARCH).state_dict()
    name = 'stages.0.0.token_mixer.large.weight'
    weights[name] = weights[name][..., :11, :11]
    with pytest.raises(InputError, match=rf'{name}: weight must have shape'):
        check_fit(weights, PeLK(ARCH, kernel_sizes=(53, 49, 47, 13)), 'x.pth')
    with pytest.raises(InputError, match=rf'1 have another shape .{name}'):
        check_fit(weights, PeLK(ARCH), 'x.pth')
    # Without its half grid a kernel is not resized: its shape must be the model's.
    del weights['stages.0.0.token_mixer.large.half_grid']
    with pytest.raises(InputError, match=rf'1 have another shape .{name}'):
        check_fit(weights, PeLK(ARCH), 'x.pth', strict=False)


def test_a_head_for_other_classes_may_differ_without_strict():
    cfg = Config.fromfile(CONFIGS / 'demo/pelk_atto_digits_cls.py')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    weights = model.state_dict()
    weights['head.fc.weight'], weights['head.fc.bias'] = torch.zeros(1000, 416), torch.zeros(1000)
    check_fit(weights, model, 'x.pth', strict=False)
    with pytest.raises(InputError, match='2 have another shape .head.fc.weight is .1000, 416., the model needs .10, 416.'):
        check_fit(weights, model, 'x.pth')
