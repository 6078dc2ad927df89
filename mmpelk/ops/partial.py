"""Take the convolved channels out of a map and put the result back, for partial convolutions with several branches (Eq. 4-6).

``x.split()`` and ``torch.cat`` would do the same. In training they write the sum of the branches, and in the backward pass the sum of
their gradients, to a map of its own, and then copy it beside the channels that pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.autograd import Function

from mmpelk.utils.torch_compat import is_compiling

from .layout import memory_format


def fork(x: Tensor, channels: int, branches: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """Split a map into the channels that the branches convolve and the channels that pass.

    The gradients of the branches are summed where they belong in the gradient of the map.

    Args:
        x: (N, C, H, W).
        channels: Number of channels to convolve.
        branches: Number of branches that read them.

    Returns:
        The first ``channels`` channels once for each branch, and the other channels. All are views of ``x``.
    """
    if is_compiling():  # the compiler fuses the copies
        return (x[:, :channels],) * branches, x[:, channels:]
    *parts, passed = _Fork.apply(x, channels, branches)
    return tuple(parts), passed


def join(parts: Sequence[Tensor], passed: Tensor) -> Tensor:
    """Concatenate the sum of ``parts`` with the channels that pass: (N, C', H, W) and (N, C - C', H, W) to (N, C, H, W)."""
    if is_compiling():
        return torch.cat((sum(parts), passed), dim=1)
    if not passed.shape[1]:
        return sum(parts)
    return _Join.apply(*parts, passed)


class _Fork(Function):
    @staticmethod
    def forward(x, channels, branches):
        return *(x[:, :channels] for _ in range(branches)), x[:, channels:]

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.channels, ctx.branches = inputs

    @staticmethod
    def backward(ctx, *ups):
        return _Join.apply(*ups), None, None

    @staticmethod
    def jvp(ctx, tangent, *_):
        return *(tangent[:, : ctx.channels] for _ in range(ctx.branches)), tangent[:, ctx.channels :]

    @staticmethod
    def vmap(info, in_dims, x, channels, branches):
        x = x.movedim(in_dims[0], 0)
        *parts, passed = _Fork.apply(x.flatten(0, 1), channels, branches)
        return tuple(part.unflatten(0, x.shape[:2]) for part in (*parts, passed)), (0,) * (branches + 1)


class _Join(Function):
    """The adjoint of :class:`_Fork`."""

    @staticmethod
    def forward(*tensors):
        *parts, passed = tensors
        n, channels, h, w = parts[0].shape
        dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors))
        layouts = {memory_format(parts[0]), memory_format(passed)}  # a single channel does not show its layout
        layout = torch.channels_last if torch.channels_last in layouts else torch.contiguous_format
        shape = n, channels + passed.shape[1], h, w
        output = torch.empty(shape, dtype=dtype, device=passed.device, memory_format=layout)
        convolved = output[:, :channels]
        if len(parts) == 1:
            convolved.copy_(parts[0])
        else:
            torch.add(parts[0], parts[1], out=convolved)
            for part in parts[2:]:
                convolved += part
        output[:, channels:] = passed
        return output

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.channels, ctx.branches = inputs[0].shape[1], len(inputs) - 1

    @staticmethod
    def backward(ctx, up):
        return _Fork.apply(up, ctx.channels, ctx.branches)

    @staticmethod
    def jvp(ctx, *tangents):
        return _Join.apply(*tangents)

    @staticmethod
    def vmap(info, in_dims, *tensors):
        maps = [
            tensor.unsqueeze(0).expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            for tensor, dim in zip(tensors, in_dims, strict=True)
        ]
        output = _Join.apply(*(tensor.flatten(0, 1) for tensor in maps))
        return output.unflatten(0, maps[0].shape[:2]), 0
