"""Derivatives of any order in reverse and forward mode, torch.func, autocast, and tensors that are refused."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.utils.checkpoint import checkpoint

from mmpelk.ops import SharingGrid, available_backends, depthwise_conv2d, peripheral_conv2d
from mmpelk.ops.backends import fft
from mmpelk.utils.torch_compat import TORCH

GRID = SharingGrid.from_half([2, 1, 1])
BACKENDS = available_backends('cpu', torch.float64)


CELLS = [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]


def on_meta(tensor):
    return tensor.to('meta')


def ours(x, w):
    return depthwise_conv2d(x, w, backend='fft').pow(2).sum()


def torchs(x, w):
    return F.conv2d(x, w, padding=2, groups=3).pow(2).sum()


X, W = torch.randn(2, 3, 6, 5, dtype=torch.double), torch.randn(3, 1, 5, 5, dtype=torch.double)


def dual_tangent(f):
    x = X.clone().requires_grad_()
    with forward_ad.dual_level():
        output = f(forward_ad.make_dual(x, X + 1), forward_ad.make_dual(W, 2 * W))
        tangent = forward_ad.unpack_dual(output).tangent
        return tangent, torch.autograd.grad(tangent, x)


TRANSFORMS = dict(
    grad=lambda f: grad(f, (0, 1))(X, W),
    gradient_of_each_image=lambda f: vmap(lambda x, w: grad(f, (0, 1))(x[None], w), (0, None))(X, W),
    gradient_with_a_kernel_for_each_image=lambda f: vmap(lambda x, w: grad(f, (0, 1))(x[None], w))(X, torch.stack([W, 2 * W])),
    jvp=lambda f: jvp(f, (X, W), (X + 1, 2 * W)),
    vmap_of_jvp=lambda f: vmap(lambda x: jvp(lambda y: f(y[None], W), (x,), (x + 1,)))(X),
    jacfwd=lambda f: jacfwd(f, 1)(X, W),
    jacrev=lambda f: jacrev(f, 1)(X, W),
    grad_of_grad=lambda f: grad(lambda x, w: grad(f)(x, w).pow(2).sum(), (0, 1))(X, W),
    hessian_by_input=lambda f: hessian(f)(X[:1, :, :2, :2], W),
    hessian_by_weight=lambda f: hessian(lambda w: f(X, w))(W),
    jvp_of_grad=lambda f: jvp(grad(f), (X, W), (X + 1, 2 * W)),
    grad_of_jvp=lambda f: grad(lambda x: jvp(f, (x, W), (X + 1, 2 * W))[1])(X),
    dual_numbers=dual_tangent,
)


@pytest.mark.parametrize('name', TRANSFORMS)
def test_transforms_equal_those_of_conv2d(name):
    actual, expected = (torch.utils._pytree.tree_flatten(TRANSFORMS[name](f))[0] for f in (ours, torchs))
    assert all(value.abs().max() > 0 for value in expected)
    torch.testing.assert_close(actual, expected)


def tangent(f):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(X, forward_ad.make_dual(W, 2 * W))).tangent


@pytest.mark.parametrize('transform', [tangent, TRANSFORMS['jvp']])
def test_tangents_without_gradients(transform):
    """Calls that need no gradients take a shorter way, unless forward mode follows their inputs."""
    with torch.no_grad():
        actual, expected = transform(ours), transform(torchs)
    assert all(value.abs().max() > 0 for value in torch.utils._pytree.tree_flatten(expected)[0])
    torch.testing.assert_close(actual, expected)


def test_vmap_without_gradients_calls_a_backend_once(monkeypatch):
    shapes, forward = [], fft.forward
    monkeypatch.setattr(fft, 'forward', lambda x, *others: shapes.append(tuple(x.shape)) or forward(x, *others))
    with torch.no_grad():
        output = vmap(lambda x: depthwise_conv2d(x[None], W, backend='fft')[0])(X)
    torch.testing.assert_close(output, F.conv2d(X, W, padding=2, groups=3))
    assert shapes == [X.shape]


@pytest.mark.parametrize('backend', BACKENDS)
def test_gradcheck_of_first_and_second_order(backend):
    x, w, b = (torch.randn(shape, dtype=torch.double, requires_grad=True) for shape in ((1, 2, 4, 3), (2, 1, 5, 5), (2,)))

    def call(x, w, b):
        return peripheral_conv2d(x, w, GRID, bias=b, backend=backend)

    assert torch.autograd.gradcheck(call, (x, w, b), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (x, w, b), check_fwd_over_rev=True)


@pytest.mark.parametrize('backend', available_backends())
def test_second_order_gradients_of_every_backend(backend):
    """Float32 has no gradcheck: the same gradients by the dense backend in float64 are the reference."""

    def second_order(dtype, backend):
        generator = torch.Generator().manual_seed(0)
        x, w = (torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in ((2, 3, 9, 8), (3, 1, 5, 5)))
        output = peripheral_conv2d(x, w, GRID, backend=backend)
        first = torch.autograd.grad(output.sin().sum(), (x, w), create_graph=True)
        return torch.autograd.grad(sum(g.pow(2).sum() for g in first), (x, w))

    for actual, expected in zip(second_order(torch.float32, backend), second_order(torch.float64, 'dense'), strict=True):
        assert (actual - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.skipif(not hasattr(torch.library, 'opcheck'), reason='torch has opcheck since 2.4')
@pytest.mark.parametrize('backend', available_backends())
def test_opcheck_of_the_weight_gradient(backend):
    up, x = (torch.randn(2, 3, 5, 6, requires_grad=True) for _ in range(2))
    cells = list(GRID.cells)
    torch.library.opcheck(torch.ops.mmpelk.depthwise_conv2d_weight_grad.default, (up, x, cells, cells, backend))


def test_gradients_under_checkpointing():
    x, w = X.clone().requires_grad_(), W.clone().requires_grad_()
    expected = torch.autograd.grad(ours(x, w), (x, w))
    torch.testing.assert_close(torch.autograd.grad(checkpoint(ours, x, w, use_reentrant=False), (x, w)), expected)


@pytest.mark.parametrize('compiled', [False, True], ids=['eager', 'compiled'])
@pytest.mark.parametrize('backend', available_backends())
def test_autocast_behaves_like_conv2d(backend, compiled):
    x, w = torch.randn(1, 2, 12, 12), torch.randn(2, 1, 5, 5, requires_grad=True)
    wide = torch.randn(1, 2, 12, 12, dtype=torch.double), torch.randn(2, 1, 5, 5, dtype=torch.double)

    def call(x, w):
        return peripheral_conv2d(x, w, GRID, backend=backend)

    # torch 2.1 breaks the graph where it reads the type of autocast.
    run = torch.compile(call, fullgraph=TORCH >= (2, 4), backend='aot_eager') if compiled else call
    with torch.autocast('cpu', dtype=torch.bfloat16):
        output = run(x, w)
        assert output.dtype == F.conv2d(x, w, padding=2, groups=2).dtype == torch.bfloat16
        assert run(x.bfloat16(), w).dtype == torch.bfloat16
        if backend in BACKENDS:
            assert run(*wide).dtype == F.conv2d(*wide, padding=2, groups=2).dtype == torch.float64
    expected = call(x.bfloat16().float(), w.bfloat16().float())
    assert (output - expected).abs().max() < 1e-2 * expected.abs().max()
    (gradient,) = torch.autograd.grad(output.float().sum(), w)
    assert gradient.dtype == torch.float32 and gradient.abs().max() > 0


def test_every_convolution_of_the_backbone_has_the_autocast_type():
    pytest.importorskip('mmcv', reason='the backbone needs mmcv')
    from mmpelk.models import PeLK

    types, operator = [], torch.ops.mmpelk.depthwise_conv2d

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, _, args=(), kwargs=None):
            if function is operator.default:
                types.append((args[0].dtype, args[1].dtype))
            return function(*args, **(kwargs or {}))

    model = PeLK(arch=dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)), layer_scale_init_value=1.0).train()
    with Recorder(), torch.autocast('cpu', dtype=torch.bfloat16):
        model(torch.randn(2, 3, 64, 64))
    assert types == [(torch.bfloat16, torch.bfloat16)] * 8  # large and small kernels of four blocks


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(w=torch.Tensor.double), 'input and weight must have one type, got torch.float32 and torch.float64'),
        (dict(b=torch.Tensor.half), 'input and bias must have one type, got torch.float32 and torch.float16'),
        (dict(x=torch.Tensor.int), 'or float64, got torch.int32'),
        (dict(x=on_meta), 'input and weight must be on one device, got meta and cpu'),
        (dict(w=on_meta), 'input and weight must be on one device, got cpu and meta'),
        (dict(b=on_meta), 'input and bias must be on one device, got cpu and meta'),
        (dict(h=on_meta), 'weight and pos_embed must be on one device, got cpu and meta'),
        (dict(x=torch.Tensor.to_sparse), 'input must be a dense tensor, got torch.sparse_coo'),
        (dict(w=torch.Tensor.to_sparse), 'weight must be a dense tensor, got torch.sparse_coo'),
        (dict(b=torch.Tensor.to_sparse), 'bias must be a dense tensor, got torch.sparse_coo'),
    ],
)
def test_tensors_that_are_refused(change, message):
    tensors = dict(x=torch.randn(1, 2, 6, 6), w=torch.randn(2, 1, 5, 5), b=torch.randn(2), h=torch.randn(1, 7, 7))
    x, w, b, h = (change.get(name, lambda tensor: tensor)(tensor) for name, tensor in tensors.items())
    with pytest.raises(ValueError, match=message):
        peripheral_conv2d(x, w, GRID, h if 'h' in change else None, b)


@pytest.mark.parametrize('change', [torch.Tensor.double, on_meta, torch.Tensor.to_sparse])
def test_gradients_that_are_refused(change):
    x = torch.randn(1, 2, 6, 6)
    with pytest.raises(ValueError, match='input and grad must (be on one device|have one type)|grad must be a dense tensor'):
        torch.ops.mmpelk.depthwise_conv2d_weight_grad(change(x), x, [1, 1, 1], [1, 1, 1], 'auto')


def test_autocast_refuses_weights_that_are_no_floating_point_numbers():
    with torch.autocast('cpu', dtype=torch.bfloat16), pytest.raises(ValueError, match='got torch.bfloat16 and torch.int8'):
        depthwise_conv2d(torch.randn(1, 2, 6, 6), torch.ones(2, 1, 5, 5, dtype=torch.int8))


@pytest.mark.skipif(TORCH < (2, 4), reason='torch.compile does not support torch.func in torch 2.1')
@pytest.mark.parametrize(
    'transformed', [lambda x: jvp(lambda y: ours(y, W), (x,), (x + 1,)), grad(lambda x: ours(x, W))], ids=['jvp', 'grad']
)
def test_transforms_in_compiled_functions(transformed):
    """torch.compile leaves them to eager mode."""
    torch.testing.assert_close(torch.compile(transformed, backend='aot_eager')(X), transformed(X))


def test_a_direct_call_refuses_tangents():
    """Otherwise the tangent of the result would be zero."""
    with pytest.raises(
        NotImplementedError, match='depthwise_conv2d has no derivatives in forward mode in compiled graphs and direct'
    ):
        tangent(lambda x, w: torch.ops.mmpelk.depthwise_conv2d(x, w, None, *CELLS, 0, 'fft'))


@pytest.mark.parametrize('dtype', [torch.float8_e4m3fn, torch.int8, torch.complex64])
def test_the_operators_refuse_other_types(dtype):
    x, w = torch.zeros(1, 2, 6, 6).to(dtype), torch.zeros(2, 1, 3, 3).to(dtype)
    message = f'input must be float16, bfloat16, float32, or float64, got {dtype}'
    with pytest.raises(ValueError, match=message):
        torch.ops.mmpelk.depthwise_conv2d(x, w, None, [1, 1, 1], [1, 1, 1], 0, 'auto')
    with pytest.raises(ValueError, match=message):
        torch.ops.mmpelk.depthwise_conv2d_weight_grad(x, x, [1, 1, 1], [1, 1, 1], 'auto')


@pytest.mark.parametrize(
    'cells, message',
    [
        ([2, 1, 1, 1], 'cells must be positive, symmetric, and of an odd sum'),
        ([-1, 3, -1], 'cells must be positive'),
        ([1, 1, 1], 'weight must have shape .2, 1, 3, 3.'),
    ],
)
def test_a_direct_call_checks_the_cells(cells, message):
    x, w = torch.randn(1, 2, 6, 6), torch.randn(2, 1, 5, 5)
    with pytest.raises(ValueError, match=message):
        torch.ops.mmpelk.depthwise_conv2d(x, w, None, cells, cells, 0, 'auto')


def test_meta_tensors_have_shapes_only():
    output = peripheral_conv2d(torch.randn(1, 2, 6, 7, device='meta'), torch.randn(2, 1, 5, 5, device='meta'), GRID)
    assert output.is_meta and output.shape == (1, 2, 6, 7)
