"""The modules against the loops, and what they store, print, and refuse."""

import pytest
import torch
from cases import relative_error
from reference import correlate, expand

from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d, SharingGrid, available_backends


def randomize(module):
    """Replace the parameters with random values, because the bias is zero after initialization."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.5)
    return module


def reference(module, kernel, x):
    bias = 0 if module.bias is None else module.bias.detach().double().numpy()[None, :, None, None]
    return correlate(x.double().numpy(), kernel) + bias


@pytest.mark.parametrize('backend', ['auto', *available_backends()])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(
    'sizes, half', [((13,), (2, 2, 1, 1, 1)), ((13, 3, 3), (5, 1, 1)), ((SharingGrid((4, 2, 3)),), (4, 2, 3))]
)
def test_peripheral_conv2d(sizes, half, bias, backend):
    module = randomize(PeripheralConv2d(3, *sizes, bias=bias, backend=backend))
    assert module.grid.half == half and (module.bias is None) == (not bias)
    x = torch.randn(2, 3, 8, 6)
    expected = reference(module, expand(module.weight[:, 0].detach().double().numpy(), half), x)
    assert relative_error(module(x), expected) < 5e-6


@pytest.mark.parametrize('backend', ['auto', *available_backends()])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('kernel_size, shape', [(5, (5, 5)), ((1, 7), (1, 7)), ([9, 3], (9, 3))])
def test_depthwise_conv2d(kernel_size, shape, bias, backend):
    module = randomize(DepthwiseConv2d(3, kernel_size, bias=bias, backend=backend))
    assert module.kernel_size == shape and (module.bias is None) == (not bias)
    x = torch.randn(2, 3, 8, 6)
    assert relative_error(module(x), reference(module, module.weight[:, 0].detach().double().numpy(), x)) < 5e-6


@pytest.mark.parametrize('build', [lambda: PeripheralConv2d(4, 13), lambda: DepthwiseConv2d(4, 13)])
def test_the_bias_is_on_and_zero_by_default_and_all_parameters_get_gradients(build):
    module = build()
    assert module.bias.shape == (4,) and module.bias.count_nonzero() == 0
    assert [name for name, _ in module.named_parameters()] == ['weight', 'bias']
    module(torch.randn(1, 4, 9, 9)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    torch.nn.init.ones_(module.bias)
    module.reset_parameters()
    assert module.bias.count_nonzero() == 0


def test_the_state_dict_stores_the_half_grid():
    module = PeripheralConv2d(2, 51)
    state = module.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        'weight': (2, 1, 13, 13), 'bias': (2,), 'half_grid': (7,),
    }  # fmt: skip
    assert state['half_grid'].tolist() == [9, 8, 4, 2, 1, 1, 1]
    assert state['half_grid'].dtype == torch.int64
    assert module.half().half_grid.dtype == torch.int64  # conversions of the module do not round the sizes
    module.set_grid(SharingGrid.dense(5))
    assert module.state_dict()['half_grid'].tolist() == [1, 1, 1] and module.kernel_size == (5, 5)


@pytest.mark.parametrize('kernel_size', [13, 51, 101])
def test_every_cell_contributes_equally_to_the_variance_on_smooth_input(kernel_size):
    module = PeripheralConv2d(4000, kernel_size, bias=False)
    responses = module.weight[:, 0].detach().double() * module.grid.areas()  # to a constant input of 1, per cell
    variances = responses.square().mean(0)
    expected = 1.55 / module.grid.weight_size**2
    assert (variances / expected - 1).abs().max() < 0.1
    assert abs(variances.sum() / 1.55 - 1) < 0.02


@pytest.mark.parametrize('kernel_size', [7, (5, 31)])
def test_depthwise_conv2d_keeps_the_variance_of_white_noise(kernel_size):
    module = DepthwiseConv2d(2000, kernel_size)
    assert abs(module.weight.square().sum((1, 2, 3)).mean() - 1) < 0.05


def test_repr():
    assert repr(PeripheralConv2d(8, 31, backend='fft')) == (
        "PeripheralConv2d(8, 31x31 from 11x11, half_grid=[7, 4, 2, 1, 1, 1], bias=True, backend='fft')"
    )
    assert repr(DepthwiseConv2d(8, (5, 31), bias=False)) == "DepthwiseConv2d(8, 5x31, bias=False, backend='auto')"


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: PeripheralConv2d(4, 50), 'kernel_size must be a positive odd integer, got 50'),
        (lambda: PeripheralConv2d(4, 51.0), 'kernel_size must be a positive odd integer, got 51.0'),
        (lambda: PeripheralConv2d(4, 51, center_size=53), 'center_size must not exceed kernel_size=51, got 53'),
        (lambda: PeripheralConv2d(4, 51, base=0), 'base must be an integer of at least 1, got 0'),
        (lambda: PeripheralConv2d(4, 51, backend='cutlass'), "backend must be one of .* got 'cutlass'"),
        (lambda: DepthwiseConv2d(4, 8), 'kernel_size must be a positive odd integer or two of them, got 8'),
        (lambda: DepthwiseConv2d(4, -1), 'or two of them, got -1'),
        (lambda: DepthwiseConv2d(4, 51.0), 'or two of them, got 51.0'),
        (lambda: DepthwiseConv2d(4, (3.0, 3)), r'or two of them, got \(3.0, 3\)'),
        (lambda: DepthwiseConv2d(4, (3, 4)), r'or two of them, got \(3, 4\)'),
        (lambda: DepthwiseConv2d(4, (3, 3, 3)), r'or two of them, got \(3, 3, 3\)'),
        (lambda: DepthwiseConv2d(4, 7, backend='cutlass'), "backend must be one of .* got 'cutlass'"),
    ],
)
def test_invalid_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize('module', [PeripheralConv2d(3, 13), DepthwiseConv2d(3, 13)], ids=lambda module: type(module).__name__)
def test_input_with_another_number_of_channels(module):
    with pytest.raises(ValueError, match=r'weight must have shape \(2, 1, .* got \(3, 1,'):
        module(torch.zeros(1, 2, 8, 8))
