"""How resizing kernels on loading changes the features. tests/tools/test_convert_checkpoint.py converts whole checkpoints."""

import pytest
import torch
from torch import nn

from mmpelk.checkpoints.feature_change import measure_feature_change
from mmpelk.models import PeLK, grow_kernels


def pelk(half):
    return PeLK(
        dict(depths=(2, 1, 1, 1), channels=(8, 8, 8, 8)),
        sharing_grids=[half] * 4,
        small_kernel=None,
        layer_scale_init_value=1.0,
    )


class Plain(nn.Module):
    """A backbone with one depthwise convolution."""

    def __init__(self, size):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, stride=4)
        self.conv = nn.Conv2d(4, 4, size, padding=size // 2, groups=4)

    def forward(self, x):
        return [self.conv(self.stem(x))]


def grown():
    model = Plain(7)
    grow_kernels(model, 15)
    return model


def saved(size):
    """Return the weights of a backbone with a dense kernel."""
    return Plain(size).state_dict() | {'conv.half_grid': torch.ones(size // 2 + 1, dtype=torch.long)}


CASES = {
    'the cells of the new grid contain whole cells': (pelk([4, 2, 1, 1]), pelk([2, 1, 1]).state_dict(), (7, 15), True),
    'a new cell contains parts of two cells': (pelk([3, 3, 1, 1]), pelk([2, 1, 1]).state_dict(), (7, 15), False),
    'grown': (grown(), saved(7), (7, 15), True),
    'grown from a larger kernel than the center': (grown(), saved(9), (9, 15), False),
}


@pytest.mark.parametrize('name', CASES)
def test_a_resized_backbone(name):
    model, weights, sizes, exact = CASES[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change = measure_feature_change(model, weights, size=64)
    assert change.sizes == (sizes,) and change.exact == exact
    assert change.change < 1e-5 if exact else 1e-4 < change.change < 10
    verdict = 'this is exact' if exact else f'this is NOT exact; a center of {sizes[0]} would be'
    assert f'({sizes[0]}x{sizes[0]} to 15x15): {verdict}; the last features change by {change.change:.2g} of' in str(change)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nothing_is_measured_without_a_change_or_a_kernel():
    model, weights = pelk([2, 1, 1]), pelk([2, 1, 1]).state_dict()
    assert measure_feature_change(model, weights) is None
    del weights['stages.1.0.token_mixer.large.weight']
    assert measure_feature_change(pelk([4, 2, 1, 1]), weights) is None
