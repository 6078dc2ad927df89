"""Partial convolutions: in the operator against the loops, and ``fork`` and ``join`` against ``split`` and ``cat``."""

import numpy as np
import pytest
import torch
from cases import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import collapse, correlate, correlate_grads, expand
from strategies import fill, halves, values
from torch.func import hessian, jvp, vmap

from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d, SharingGrid, available_backends, depthwise_conv2d, peripheral_conv2d
from mmpelk.ops.partial import fork, join

GRID = SharingGrid.from_half([2, 1, 1])
CELLS = list(GRID.cells)
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@given(values(), values(), halves, st.integers(1, 20), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans())
@settings(max_examples=25)
def test_the_operator_matches_the_loops_and_passes_the_other_channels(
    numbers, weights, half, channels, passed, height, width, last
):
    grid, layout = SharingGrid.from_half(half), LAYOUTS[last]
    x, up = fill(numbers, 2, channels + passed, height, width), 1 + fill(weights, 2, channels + passed, height, width)
    w, bias = fill(weights, channels, grid.weight_size, grid.weight_size), fill(numbers, channels)

    def reference(x, w, bias, up):
        kernel = expand(w, half)
        output = np.concatenate((correlate(x[:, :channels], kernel) + bias[:, None, None], x[:, channels:]), axis=1)
        grad_x, grad_kernel = correlate_grads(x[:, :channels], kernel, up[:, :channels])
        grad_x = np.concatenate((grad_x, up[:, channels:]), axis=1)
        return output, grad_x, collapse(grad_kernel, half)[:, None], up[:, :channels].sum((0, 2, 3))

    expected = reference(x, w, bias, up)
    scales = [values.max() for values in reference(*map(abs, (x, w, bias, up)))]  # without cancellation
    for backend in ('auto', *available_backends()):
        tensors = [torch.from_numpy(a).float() for a in (x, w[:, None], bias)]
        tensors = [tensor.contiguous(memory_format=layout) if tensor.ndim == 4 else tensor for tensor in tensors]
        tensors = [tensor.requires_grad_() for tensor in tensors]
        output = peripheral_conv2d(*tensors[:2], grid, bias=tensors[2], backend=backend, partial=True)
        assert output.is_contiguous(memory_format=layout)
        assert torch.equal(output[:, channels:], tensors[0][:, channels:])
        actual = output.detach(), *torch.autograd.grad(output, tensors, torch.from_numpy(up).float())
        for one, other, scale in zip(actual, expected, scales, strict=True):
            np.testing.assert_allclose(one.numpy(), other, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize(
    'dtype, backend',
    [(dtype, backend) for dtype in (torch.float16, torch.bfloat16) for backend in available_backends(dtype=dtype)],
)
def test_half_types(dtype, backend):
    x, w = torch.randn(1, 5, 7, 6).to(dtype), torch.randn(3, 1, 5, 5).to(dtype)
    output = peripheral_conv2d(x, w, GRID, backend=backend, partial=True)
    assert output.dtype == dtype and torch.equal(output[:, 3:], x[:, 3:])
    expected = correlate(x[:, :3].double().numpy(), expand(w[:, 0].double().numpy(), GRID.half))
    assert relative_error(output[:, :3], expected) < 2e-2


@pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='torch has opcheck since 2.4')
@pytest.mark.parametrize('backend', available_backends())
def test_opcheck(backend):
    x, w, bias = (torch.randn(shape, requires_grad=True) for shape in ((2, 5, 5, 6), (3, 1, 5, 5), (3,)))
    torch.library.opcheck(torch.ops.mmpelk.depthwise_conv2d.default, (x, w, bias, CELLS, CELLS, 2, backend))


@pytest.mark.parametrize('backend', available_backends(dtype=torch.double))
def test_derivatives_of_first_and_second_order(backend):
    x, w, b = (torch.randn(s, dtype=torch.double, requires_grad=True) for s in ((1, 3, 4, 3), (2, 1, 5, 5), (2,)))

    def call(x, w, b):
        return peripheral_conv2d(x, w, GRID, bias=b, backend=backend, partial=True)

    assert torch.autograd.gradcheck(call, (x, w, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (x, w, b), check_fwd_over_rev=True)


@pytest.mark.parametrize('mapped', [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 1), (1, 2, 0)], ids=str)
def test_vmap(mapped):
    shapes = ((2, 5, 6, 7), (3, 1, 5, 5), (3,))
    tensors = [
        torch.randn(s[:d] + (4,) + s[d:]) if d is not None else torch.randn(s) for s, d in zip(shapes, mapped, strict=True)
    ]

    def call(x, w, b):
        return peripheral_conv2d(x, w, GRID, bias=b, backend='fft', partial=True)

    expected = torch.stack(
        [call(*(t if d is None else t.select(d, i) for t, d in zip(tensors, mapped, strict=True))) for i in range(4)]
    )
    torch.testing.assert_close(vmap(call, mapped)(*tensors), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('mode', ['literal', 'inside'])
def test_positional_embeddings_do_not_reach_the_other_channels(mode):
    x, w, h = torch.randn(2, 5, 6, 7), torch.randn(3, 1, 5, 5), torch.randn(1, 7, 7)
    grid = SharingGrid.from_half([2, 1, 1])
    output = peripheral_conv2d(x, w, grid, h, partial=True, pos_embed_mode=mode)
    torch.testing.assert_close(output[:, :3], peripheral_conv2d(x[:, :3], w, grid, h, pos_embed_mode=mode))
    assert torch.equal(output[:, 3:], x[:, 3:])


@pytest.mark.parametrize('build', [PeripheralConv2d, DepthwiseConv2d])
def test_modules(build):
    module, x = build(3, 13, partial=True), torch.randn(1, 5, 8, 9)
    whole = build(3, 13)
    whole.load_state_dict(module.state_dict())
    torch.testing.assert_close(module(x), torch.cat((whole(x[:, :3]), x[:, 3:]), 1))
    torch.testing.assert_close(module(x[:, :3]), whole(x[:, :3]))
    assert repr(module).endswith("backend='auto', partial)")
    with pytest.raises(ValueError, match=r'weight must have shape \(2, 1, .* got \(3, 1,'):
        module(x[:, :2])


def test_a_compiled_graph_is_partial_too():
    x, w = torch.randn(2, 5, 9, 12, requires_grad=True), torch.randn(3, 1, 5, 5, requires_grad=True)

    def call(x, w):
        return depthwise_conv2d(x, w, partial=True).sin().sum()

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend='aot_eager')
    torch.testing.assert_close(torch.autograd.grad(compiled(x, w), (x, w)), torch.autograd.grad(call(x, w), (x, w)))


@pytest.mark.parametrize('passed', [-1, 5])
def test_a_direct_call_checks_the_passed_channels(passed):
    with pytest.raises(ValueError, match='passed must be at least 0 and less than the 5 channels of the input'):
        torch.ops.mmpelk.depthwise_conv2d(torch.randn(1, 5, 6, 6), torch.randn(3, 1, 5, 5), None, CELLS, CELLS, passed, 'auto')


def ours(x):
    (a, b), passed = fork(x, 2, 2)
    return join((a.sin(), b * b), passed)


def plain(x):
    a, passed = x.split((2, x.shape[1] - 2), 1)
    return torch.cat((a.sin() + a * a, passed), 1)


@pytest.mark.parametrize('channels', [2, 3, 5])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_fork_and_join_equal_split_and_cat(layout, channels):
    x = torch.randn(2, channels, 3, 4, dtype=torch.double).contiguous(memory_format=layout).requires_grad_()
    assert torch.equal(ours(x), plain(x)) and ours(x).is_contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(ours, (x,), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(ours, (x,), check_fwd_over_rev=True)
    compiled = torch.compile(ours, fullgraph=True, backend='aot_eager')
    torch.testing.assert_close(torch.autograd.grad(compiled(x).sin().sum(), x), torch.autograd.grad(plain(x).sin().sum(), x))


def test_transforms_of_fork_and_join():
    x = torch.randn(3, 2, 4, 3, 2, dtype=torch.double)
    torch.testing.assert_close(vmap(ours)(x), vmap(plain)(x))
    torch.testing.assert_close(jvp(ours, (x[0],), (x[1],)), jvp(plain, (x[0],), (x[1],)))
    second = [hessian(lambda x, f=f: f(x).pow(3).sum())(x[0, :1]) for f in (ours, plain)]
    torch.testing.assert_close(*second)


def test_join_promotes_types_like_cat():
    part, passed = torch.randn(1, 2, 3, 3).bfloat16().requires_grad_(), torch.randn(1, 1, 3, 3, requires_grad=True)
    output = join((part, part), passed)
    assert output.dtype == torch.cat((part, passed), 1).dtype == torch.float32
    grads = torch.autograd.grad(output.sum(), (part, passed))
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32] and grads[0].eq(2).all()
