"""The registration of the operator in torch: its fake, gradients, layouts, compilation, and FLOPs."""

import pytest
import torch
from cases import assert_same_bits

from mmpelk.analysis.gpu_checks import deterministic_algorithms
from mmpelk.ops import SharingGrid, available_backends, peripheral_conv2d


@pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='torch has opcheck since 2.4')
@pytest.mark.parametrize('backend', available_backends())
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_opcheck(layout, backend):
    x = torch.randn(2, 3, 5, 6).contiguous(memory_format=layout).requires_grad_()
    w, bias = torch.randn(3, 1, 7, 7, requires_grad=True), torch.randn(3, requires_grad=True)
    cells = SharingGrid.from_half([2, 2, 1, 1]).cells
    torch.library.opcheck(torch.ops.mmpelk.depthwise_conv2d.default, (x, w, bias, cells, cells, 0, backend))


@pytest.mark.parametrize('backend', available_backends())
@pytest.mark.parametrize('channels', [1, 4])
def test_the_output_has_the_memory_format_of_the_input(channels, backend):
    x, w, grid = torch.randn(2, 7, 9, 8), torch.randn(channels, 1, 5, 5), SharingGrid.from_half([3, 1, 1])
    expected = peripheral_conv2d(x[:, :channels].contiguous(), w, grid, backend=backend)
    assert expected.is_contiguous()
    last = x.contiguous(memory_format=torch.channels_last)[:, :channels]
    output = peripheral_conv2d(last, w, grid, backend=backend)
    torch.testing.assert_close(output, expected)
    assert channels == 1 or output.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(peripheral_conv2d(x.mT[:, :channels], w.mT, grid, backend=backend).mT, expected)


@pytest.mark.parametrize('needed', [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize('backend', available_backends())
def test_gradients_are_computed_only_where_needed(needed, backend):
    grid, bias = SharingGrid.from_half([3, 1, 1]), torch.randn(3, requires_grad=True)
    tensors = torch.randn(2, 3, 5, 4), torch.randn(3, 1, 5, 5)
    full = [tensor.clone().requires_grad_() for tensor in tensors]
    peripheral_conv2d(*full, grid, bias=bias, backend=backend).square().sum().backward()
    part = [tensor.clone().requires_grad_(need) for tensor, need in zip(tensors, needed, strict=True)]
    expected_bias, bias.grad = bias.grad, None
    peripheral_conv2d(*part, grid, bias=bias, backend=backend).square().sum().backward()
    torch.testing.assert_close(bias.grad, expected_bias)
    for tensor, reference, need in zip(part, full, needed, strict=True):
        if need:
            torch.testing.assert_close(tensor.grad, reference.grad)
        else:
            assert tensor.grad is None


def test_compiles_without_graph_breaks():
    grid = SharingGrid.peripheral(31)
    tensors = [torch.randn(shape, requires_grad=True) for shape in ((2, 3, 9, 12), (3, 1, 11, 11), (1, 31, 31), (3,))]

    def call(x, w, h, bias):
        return peripheral_conv2d(x, w, grid, h, bias).sin().sum()

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend='aot_eager')
    expected = torch.autograd.grad(call(*tensors), tensors)
    for grad, reference in zip(torch.autograd.grad(compiled(*tensors), tensors), expected, strict=True):
        torch.testing.assert_close(grad, reference)


def test_flop_counters_count_the_dense_taps():
    from torch.utils.flop_counter import FlopCounterMode

    x, w = torch.randn(2, 3, 9, 12, requires_grad=True), torch.randn(3, 1, 11, 11, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        peripheral_conv2d(x, w, SharingGrid.peripheral(31)).sum().backward()
    assert counter.get_total_flops() == 3 * 2 * x.numel() * 31 * 31
    with FlopCounterMode(display=False) as counter:
        peripheral_conv2d(x.detach(), w, SharingGrid.peripheral(31)).sum().backward()
    assert counter.get_total_flops() == 2 * 2 * x.numel() * 31 * 31


@pytest.mark.parametrize('backend', ['auto', *available_backends()])
def test_deterministic_algorithms_give_the_same_bits_twice(backend):
    grid, tensors = SharingGrid.peripheral(31), (torch.randn(2, 37, 20, 17), torch.randn(37, 1, 11, 11))
    leaves = [tensor.requires_grad_() for tensor in tensors]

    def run():
        output = peripheral_conv2d(*leaves, grid, backend=backend)
        return output, *torch.autograd.grad(output.sin().sum(), leaves)

    with deterministic_algorithms():
        assert_same_bits(run(), run())
