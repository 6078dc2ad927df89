"""The torch operator ``mmpelk::depthwise_conv2d``: one operator for all backends, with its fake, autograd, and FLOP formulas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .backends import choose_backend
from .cells import crop
from .layout import memory_format

# torch.compile sees one operator, whatever the backend, and the backward pass may use another backend than the forward pass.
# torch.library.custom_op would add about 40 us to each call, which is as much as a small map takes.
FORWARD, BACKWARD = 'mmpelk::depthwise_conv2d', 'mmpelk::depthwise_conv2d_backward'
# Backends cache small tensors between calls, and GPU backends are timed. Neither may happen inside inductor's CUDA graphs.
TAGS = [torch.Tag.cudagraph_unsafe] if hasattr(torch.Tag, 'cudagraph_unsafe') else []
torch.library.define(
    FORWARD, '(Tensor input, Tensor weight, Tensor? bias, int[] rows, int[] columns, str backend) -> Tensor', tags=TAGS
)
torch.library.define(
    BACKWARD,
    '(Tensor grad, Tensor input, Tensor weight, int[] rows, int[] columns, str backend, bool input_needed, bool weight_needed)'
    ' -> (Tensor, Tensor)',
    tags=TAGS,
)


@torch.library.impl(FORWARD, 'CompositeExplicitAutograd')
def _forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, rows: Sequence[int], columns: Sequence[int], backend: str
) -> Tensor:
    part, rows, columns = _cropped(weight, rows, columns, input)
    output = choose_backend(backend, input, rows, columns).forward(input, part, bias, rows, columns)
    return output.contiguous(memory_format=memory_format(input))


@torch.library.register_fake(FORWARD)
def _(input, weight, bias, rows, columns, backend):
    return torch.empty_like(input, memory_format=memory_format(input))


@torch.library.impl(BACKWARD, 'CompositeExplicitAutograd')
def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    rows: Sequence[int],
    columns: Sequence[int],
    backend: str,
    input_needed: bool,
    weight_needed: bool,
) -> tuple[Tensor, Tensor]:
    part, rows, columns = _cropped(weight, rows, columns, input)
    chosen = choose_backend(backend, input, rows, columns, backward=True)
    grad_input, grad_part = chosen.backward(grad, input, part, rows, columns, (input_needed, weight_needed))
    if grad_part is None:
        grad_weight = weight.new_empty(0)
    else:
        top, left = ((full - cropped) // 2 for full, cropped in zip(weight.shape[-2:], grad_part.shape[-2:], strict=True))
        grad_weight = torch.nn.functional.pad(grad_part, (left, left, top, top)).contiguous()
    grad_input = input.new_empty(0) if grad_input is None else grad_input.contiguous(memory_format=memory_format(input))
    return grad_input, grad_weight


@torch.library.register_fake(BACKWARD)
def _(grad, input, weight, rows, columns, backend, input_needed, weight_needed):
    grad_input = torch.empty_like(input, memory_format=memory_format(input)) if input_needed else input.new_empty(0)
    return grad_input, torch.empty_like(weight, memory_format=torch.contiguous_format) if weight_needed else weight.new_empty(0)


def _keep_for_backward(ctx, inputs, output):
    input, weight, bias, ctx.rows, ctx.columns, ctx.backend = inputs
    ctx.bias_type = None if bias is None else bias.dtype
    ctx.save_for_backward(input, weight)


def _differentiate(ctx, grad):
    input, weight = ctx.saved_tensors
    input_needed, weight_needed, bias_needed = ctx.needs_input_grad[:3]
    grad_input = grad_weight = None
    if input_needed or weight_needed:
        grad_input, grad_weight = torch.ops.mmpelk.depthwise_conv2d_backward(
            grad, input, weight, ctx.rows, ctx.columns, ctx.backend, input_needed, weight_needed
        )
    return (
        grad_input if input_needed else None,
        grad_weight if weight_needed else None,
        grad.sum((0, 2, 3)).to(ctx.bias_type) if bias_needed else None,
        None,
        None,
        None,
    )


torch.library.register_autograd(FORWARD, _differentiate, setup_context=_keep_for_backward)


def _cropped(
    weight: Tensor, rows: Sequence[int], columns: Sequence[int], input: Tensor
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Crop the weight and the cells to the taps that can touch the map."""
    rows, top = crop(rows, input.shape[2])
    columns, left = crop(columns, input.shape[3])
    return weight[..., top : top + len(rows), left : left + len(columns)], rows, columns


@register_flop_formula(torch.ops.mmpelk.depthwise_conv2d)
def _flops(input_shape, weight_shape, bias_shape, rows, columns, backend, *, out_shape=None, **kwargs) -> int:
    """Count a dense evaluation, two operations per tap, as the field does."""
    n, c, h, w = input_shape
    return 2 * n * c * h * w * sum(rows) * sum(columns)


@register_flop_formula(torch.ops.mmpelk.depthwise_conv2d_backward)
def _backward_flops(
    grad_shape, input_shape, weight_shape, rows, columns, backend, input_needed, weight_needed, *, out_shape=None, **kwargs
) -> int:
    return (input_needed + weight_needed) * _flops(input_shape, weight_shape, None, rows, columns, backend)
