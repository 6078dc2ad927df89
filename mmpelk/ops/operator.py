"""The torch operators behind the convolutions: one pair for all backends, with fake, autograd, vmap, and FLOP formulas.

``mmpelk::depthwise_conv2d`` is linear in its input and in its weight. Its gradient with respect to the input is the operator itself with
the kernel rotated by 180 degrees. Its gradient with respect to the weight is ``mmpelk::depthwise_conv2d_weight_grad``, whose gradients
are the first operator again. Two operators are therefore enough for derivatives of any order, in reverse and in forward mode.

In the partial form (Eq. 4-6), the input has ``passed`` more channels than the weight. They follow the convolved channels and pass
unchanged. The output holds both, so nothing is split or concatenated. The gradient with respect to the
input is partial in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from mmpelk.utils.torch_compat import (
    autocast_dtype,
    define_operator,
    implement_operator,
    is_compiling,
    is_differentiated,
    register_autograd,
    register_flop_formula,
)

from .backends import choose_backend
from .cells import crop
from .layout import memory_format

# torch.compile sees one operator for all backends, and the backward pass may use another backend than the forward pass.
# torch.library.custom_op would add about 40 us to each call, which is as much as a small map takes (2 cores of an AMD EPYC with
# AVX-512, 2026-11-22).
CONV, WEIGHT_GRAD = 'mmpelk::depthwise_conv2d', 'mmpelk::depthwise_conv2d_weight_grad'
TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Backends cache small tensors between calls, and GPU backends are timed. Neither may happen inside inductor's CUDA graphs.
TAGS = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, 'cudagraph_unsafe') else []
define_operator(
    CONV, '(Tensor input, Tensor weight, Tensor? bias, int[] rows, int[] columns, int passed, str backend) -> Tensor', TAGS
)
define_operator(WEIGHT_GRAD, '(Tensor grad, Tensor input, int[] rows, int[] columns, str backend) -> Tensor', TAGS)


def convolve_on_cells(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], passed: int, backend: str
) -> Tensor:
    """Apply a depthwise 'same' correlation whose kernel is constant over cells. Derivatives of any order exist.

    Under autocast it behaves like :func:`torch.nn.functional.conv2d`: floating-point inputs are cast to the autocast type, which is
    also the type of the result. Sums are accumulated in float32.

    Args:
        input: (N, C + passed, H, W).
        weight: (C, 1, len(rows), len(columns)).
        bias: (C,).
        rows, columns: Sizes of the cells along both axes, symmetric, with an odd sum.
        passed: Number of channels after the first C that pass unchanged.
        backend: 'auto' or the name of a backend.

    Returns:
        (N, C + passed, H, W), in the memory format of the input.

    Raises:
        ValueError: If tensors differ in device or type, are not dense, or do not match the cells.
    """
    dtype = autocast_dtype(input.device.type)
    if dtype is not None:
        input, weight, bias = (_cast(tensor, dtype) for tensor in (input, weight, bias))
    # Inside a compiled graph the operator's registered autograd formula is used: dynamo does not trace Functions with a jvp.
    if is_compiling():
        return torch.ops.mmpelk.depthwise_conv2d(input, weight, bias, rows, columns, passed, backend)
    return _conv(input, weight, bias, rows, columns, passed, backend)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if tensor is None or tensor.dtype == torch.float64 or not tensor.is_floating_point():
        return tensor
    return tensor.to(dtype)


def check_shape(input: Tensor) -> None:
    """Raise ValueError unless the tensor has the shape (N, C, H, W), with C, H, and W at least 1."""
    # min() of the sizes would compare them with each other, and so restrict a graph that is compiled or exported for any size.
    if input.ndim != 4 or input.shape[1] < 1 or input.shape[2] < 1 or input.shape[3] < 1:
        raise ValueError(f'input must have shape (N, C, H, W) with C, H, W at least 1, got {tuple(input.shape)}')


def check_type(input: Tensor) -> None:
    """Raise ValueError unless the tensor has one of ``TYPES``."""
    if input.dtype not in TYPES:
        raise ValueError(f'input must be float16, bfloat16, float32, or float64, got {input.dtype}')


def _check(input: Tensor, other: Tensor, bias: Tensor | None, name: str) -> None:
    """Raise ValueError unless all tensors are dense and on one device, with one of ``TYPES``."""
    check_type(input)
    for label, tensor in ((name, other), ('bias', bias)):
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ValueError(f'input and {label} must be on one device, got {input.device} and {tensor.device}')
        if tensor.dtype != input.dtype:
            raise ValueError(f'input and {label} must have one type, got {input.dtype} and {tensor.dtype}')
    for label, tensor in (('input', input), (name, other), ('bias', bias)):
        if tensor is not None and tensor.layout != torch.strided:
            raise ValueError(f'{label} must be a dense tensor, got {tensor.layout}')


def _check_conv(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], passed: int
) -> None:
    _check(input, weight, bias, 'weight')
    _check_cells(input, rows, columns)
    if not 0 <= passed < input.shape[1]:
        raise ValueError(f'passed must be at least 0 and less than the {input.shape[1]} channels of the input, got {passed}')
    expected = (input.shape[1] - passed, 1, len(rows), len(columns))
    if tuple(weight.shape) != expected:
        raise ValueError(f'weight must have shape {expected} for this input and these cells, got {tuple(weight.shape)}')
    if bias is not None and tuple(bias.shape) != expected[:1]:
        raise ValueError(f'bias must have shape {expected[:1]}, got {tuple(bias.shape)}')


def _check_weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> None:
    _check(input, grad, None, 'grad')
    _check_cells(input, rows, columns)
    if grad.shape != input.shape:
        raise ValueError(f'grad must have the shape of the input, {tuple(input.shape)}, got {tuple(grad.shape)}')


def _check_cells(input: Tensor, rows: Sequence[int], columns: Sequence[int]) -> None:
    check_shape(input)
    for cells in (rows, columns):
        if not cells or min(cells) < 1 or sum(cells) % 2 == 0 or list(cells) != list(cells)[::-1]:
            raise ValueError(f'cells must be positive, symmetric, and of an odd sum, got {list(cells)}')


def compute_conv(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], passed: int, backend: str
) -> Tensor:
    """Compute ``mmpelk::depthwise_conv2d`` on tensors of any device."""
    _check_conv(input, weight, bias, rows, columns, passed)
    (rows, top), (columns, left) = crop(rows, input.shape[2]), crop(columns, input.shape[3])
    weight = weight[..., top : top + len(rows), left : left + len(columns)]
    convolved = _first(input, weight.shape[0])
    forward = choose_backend(backend, convolved, rows, columns).forward
    if not passed:
        return forward(input, weight, bias, rows, columns).contiguous(memory_format=memory_format(input))
    output = torch.empty_like(input, memory_format=memory_format(input))
    forward(convolved, weight, bias, rows, columns, out=output[:, : weight.shape[0]])
    output[:, weight.shape[0] :] = input[:, weight.shape[0] :]
    return output


def _fake_conv(input, weight, bias, rows, columns, passed, backend):
    _check_conv(input, weight, bias, rows, columns, passed)
    return torch.empty_like(input, memory_format=memory_format(input))


def compute_weight_grad(grad: Tensor, input: Tensor, rows: Sequence[int], columns: Sequence[int], backend: str) -> Tensor:
    """Compute ``mmpelk::depthwise_conv2d_weight_grad`` on tensors of any device."""
    _check_weight_grad(grad, input, rows, columns)
    (cut_rows, top), (cut_columns, left) = crop(rows, input.shape[2]), crop(columns, input.shape[3])
    chosen = choose_backend(backend, input, cut_rows, cut_columns, backward=True)
    part = chosen.weight_grad(grad, input, cut_rows, cut_columns)
    return torch.nn.functional.pad(part, (left, left, top, top)).contiguous()


def _fake_weight_grad(grad, input, rows, columns, backend):
    _check_weight_grad(grad, input, rows, columns)
    return input.new_empty(input.shape[1], 1, len(rows), len(columns))


implement_operator(CONV, compute_conv, _fake_conv)
implement_operator(WEIGHT_GRAD, compute_weight_grad, _fake_weight_grad)


def _save_conv(ctx, inputs, output):
    input, weight, bias, ctx.rows, ctx.columns, ctx.passed, ctx.backend = inputs
    ctx.save_for_backward(input, weight)
    ctx.save_for_forward(input, weight)


def _save_weight_grad(ctx, inputs, output):
    grad, input, ctx.rows, ctx.columns, ctx.backend = inputs
    ctx.save_for_backward(grad, input)
    ctx.save_for_forward(grad, input)


def _conv_backward(ctx, up, conv, weight_grad):
    input, weight = ctx.saved_tensors
    cells, channels = (ctx.rows, ctx.columns), weight.shape[0]
    input_needed, weight_needed, bias_needed = ctx.needs_input_grad[:3]
    grad_input = conv(up, weight.flip(-2, -1), None, *cells, ctx.passed, ctx.backend) if input_needed else None
    grad_weight = weight_grad(_first(up, channels), _first(input, channels), *cells, ctx.backend) if weight_needed else None
    return grad_input, grad_weight, _first(up, channels).sum((0, 2, 3)) if bias_needed else None, None, None, None, None


def _weight_grad_backward(ctx, up, conv):
    grad, input = ctx.saved_tensors
    cells = ctx.rows, ctx.columns, 0, ctx.backend
    grad_needed, input_needed = ctx.needs_input_grad[:2]
    grad_grad = conv(input, up, None, *cells) if grad_needed else None
    grad_input = conv(grad, up.flip(-2, -1), None, *cells) if input_needed else None
    return grad_grad, grad_input, None, None, None


class _Conv(Function):
    """The convolution for eager mode. Unlike a registered formula, it supports torch.func and forward mode."""

    @staticmethod
    def forward(input, weight, bias, rows, columns, passed, backend):
        return torch.ops.mmpelk.depthwise_conv2d(input, weight, bias, rows, columns, passed, backend)

    setup_context = staticmethod(_save_conv)

    @staticmethod
    def backward(ctx, up):
        return _conv_backward(ctx, up, _conv, _weight_grad)

    @staticmethod
    def jvp(ctx, d_input, d_weight, d_bias, *_):
        input, weight = ctx.saved_tensors
        cells, passed = (ctx.rows, ctx.columns), ctx.passed
        convolved = _first(input, weight.shape[0])
        terms = []
        if d_input is not None:
            terms.append(_Conv.apply(d_input, weight, None, *cells, passed, ctx.backend))
        if d_weight is not None:
            terms.append(_pad_channels(_Conv.apply(convolved, d_weight, None, *cells, 0, ctx.backend), passed))
        if d_bias is not None:
            terms.append(_pad_channels(d_bias.view(1, -1, 1, 1).expand_as(convolved), passed))
        return sum(terms)

    @staticmethod
    def vmap(info, in_dims, input, weight, bias, rows, columns, passed, backend):
        x, w, b = in_dims[:3]
        if w is None and b is None:  # one kernel for all: the mapped dimension joins the batch
            folded = input.movedim(x, 0).flatten(0, 1)
            output = _Conv.apply(folded, weight, bias, rows, columns, passed, backend)
            return output.unflatten(0, (info.batch_size, -1)), 0
        size = info.batch_size
        maps = input.unsqueeze(1).expand(-1, size, -1, -1, -1) if x is None else input.movedim(x, 1)
        convolved, unchanged = maps.tensor_split([maps.shape[2] - passed], dim=2)
        weight = _into_channels(weight, w, 0, size)
        bias = None if bias is None else _into_channels(bias, b, 0, size)
        output = _Conv.apply(convolved.flatten(1, 2), weight, bias, rows, columns, 0, backend)
        return torch.cat((output.unflatten(1, (size, -1)), unchanged), dim=2), 1


class _WeightGrad(Function):
    """The gradient with respect to the weight, which is linear in both of its arguments."""

    @staticmethod
    def forward(grad, input, rows, columns, backend):
        return torch.ops.mmpelk.depthwise_conv2d_weight_grad(grad, input, rows, columns, backend)

    setup_context = staticmethod(_save_weight_grad)

    @staticmethod
    def backward(ctx, up):
        return _weight_grad_backward(ctx, up, _conv)

    @staticmethod
    def jvp(ctx, d_grad, d_input, *_):
        grad, input = ctx.saved_tensors
        cells = ctx.rows, ctx.columns, ctx.backend
        terms = []
        if d_grad is not None:
            terms.append(_WeightGrad.apply(d_grad, input, *cells))
        if d_input is not None:
            terms.append(_WeightGrad.apply(grad, d_input, *cells))
        return sum(terms)

    @staticmethod
    def vmap(info, in_dims, grad, input, rows, columns, backend):
        grad = _into_channels(grad, in_dims[0], 1, info.batch_size)
        input = _into_channels(input, in_dims[1], 1, info.batch_size)
        output = _WeightGrad.apply(grad, input, rows, columns, backend)
        return output.unflatten(0, (info.batch_size, -1)), 0


# A Function adds 70 us to each call (2 cores of an AMD EPYC, 2026-11-29).
def _conv(*args: Any) -> Tensor:
    return _Conv.apply(*args) if is_differentiated(*args) else _Conv.forward(*args)


def _weight_grad(*args: Any) -> Tensor:
    return _WeightGrad.apply(*args) if is_differentiated(*args) else _WeightGrad.forward(*args)


def _first(tensor: Tensor, channels: int) -> Tensor:
    """Return a view of the first channels."""
    return tensor if tensor.shape[1] == channels else tensor[:, :channels]


def _pad_channels(tensor: Tensor, passed: int) -> Tensor:
    """Append channels of zeros."""
    return torch.nn.functional.pad(tensor, (0, 0, 0, 0, 0, passed)) if passed else tensor


def _into_channels(tensor: Tensor, mapped: int | None, channels: int, size: int) -> Tensor:
    """Join a mapped dimension with the channels, or repeat the channels where nothing is mapped."""
    if mapped is None:
        tensor = tensor.unsqueeze(channels).expand(*tensor.shape[:channels], size, *tensor.shape[channels:])
    else:
        tensor = tensor.movedim(mapped, channels)
    return tensor.flatten(channels, channels + 1)


# For compiled and exported graphs.
register_autograd(
    CONV,
    lambda ctx, up: _conv_backward(ctx, up, torch.ops.mmpelk.depthwise_conv2d, torch.ops.mmpelk.depthwise_conv2d_weight_grad),
    _save_conv,
)
register_autograd(
    WEIGHT_GRAD, lambda ctx, up: _weight_grad_backward(ctx, up, torch.ops.mmpelk.depthwise_conv2d), _save_weight_grad
)


def _flops(input_shape, weight_shape, bias_shape, rows, columns, passed, backend, *, out_shape=None, **kwargs) -> int:
    """Count a dense evaluation, two operations per tap, as the field does."""
    n, c, h, w = input_shape
    return 2 * n * (c - passed) * h * w * sum(rows) * sum(columns)


def _weight_grad_flops(grad_shape, input_shape, rows, columns, backend, *, out_shape=None, **kwargs) -> int:
    return _flops(input_shape, None, None, rows, columns, 0, backend)


register_flop_formula(CONV, _flops)
register_flop_formula(WEIGHT_GRAD, _weight_grad_flops)
