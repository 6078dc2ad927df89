"""The kernel forms of the token mixer, compared with plain torch."""

import pytest
import torch
import torch.nn.functional as F

from mmpelk.models import PeLK

SMALL = dict(arch=dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)), kernel_sizes=(21, 15, 13, 7), layer_scale_init_value=1.0)


def batch_norm(norm, x):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def randomize(model):
    for name, value in model.state_dict().items():
        if name.endswith('running_var'):
            value.uniform_(0.5, 2)
        elif name.endswith('running_mean'):
            value.normal_()


@pytest.mark.parametrize('small_kernel', [5, 3, None])
def test_stripes(small_kernel):
    model = PeLK(**SMALL, kernel_form='stripe', pos_embed=None, conv_ratio=1.0, small_kernel=small_kernel).double().eval()
    randomize(model)
    mixer, x = model.stages[0][0].token_mixer, torch.randn(2, 20, 9, 30).double()
    width = small_kernel or 5
    branches = [(mixer.large.vertical, mixer.large.vertical_norm), (mixer.large.horizontal, mixer.large.horizontal_norm)]
    branches += [(mixer.small, mixer.small_norm)] if small_kernel else []
    assert [tuple(conv.weight.shape[2:]) for conv, _ in branches[:2]] == [(21, width), (width, 21)]
    expected = sum(
        batch_norm(norm, F.conv2d(x, conv.weight, padding=(conv.weight.shape[2] // 2, conv.weight.shape[3] // 2), groups=20))
        for conv, norm in branches
    )
    torch.testing.assert_close(mixer(x), expected)
    images = torch.randn(1, 3, 64, 40).double()
    outputs = model(images)
    model.switch_to_deploy()
    for actual, output in zip(model(images), outputs, strict=True):
        torch.testing.assert_close(actual, output)


def test_dense():
    model = PeLK(**SMALL, kernel_form='dense', conv_ratio=1.0, pos_embed=None, small_kernel=None, norm_cfg=None).double()
    mixer, x = model.stages[0][0].token_mixer, torch.randn(2, 20, 9, 30).double()
    assert mixer.large.weight.shape == (20, 1, 21, 21)
    expected = F.conv2d(x, mixer.large.weight, mixer.large.bias, padding=10, groups=20)
    torch.testing.assert_close(mixer(x), expected)


def test_average_before_the_norm():
    model = PeLK(**SMALL, out_indices=(1, 3), gap_before_final_norm=True)
    plain = PeLK(**SMALL, out_indices=(1, 3))
    plain.load_state_dict(model.state_dict())
    plain.norm1, plain.norm3 = torch.nn.Identity(), torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    for i, output, features in zip((1, 3), model(x), plain(x), strict=True):
        norm = getattr(model, f'norm{i}')
        expected = F.layer_norm(features.mean((2, 3)), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernel_form='ring'), "kernel_form must be one of .* got 'ring'"),
        (dict(kernel_form='stripe'), "takes no positional embedding; set pos_embed=None, got 'shared'"),
        (dict(kernel_form='dense', sharing_grids=[[2, 1]] * 4), "sharing_grids need kernel_form='peripheral', got 'dense'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        PeLK(**{**SMALL, **options})
