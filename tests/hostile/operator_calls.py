"""Random calls of the operator: compare output and gradients with float64 loops over the taps, and pass arguments that must be rejected."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from reference import collapse, correlate, correlate_grads, expand

from mmpelk.ops import SharingGrid, available_backends, depthwise_conv2d, peripheral_conv2d

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def run(count: int, seed: int = 0) -> Iterator[tuple[str, str | None]]:
    """Make random calls.

    Yields:
        What was called, and what is wrong with the result, or None.
    """
    rng = np.random.default_rng(seed)
    for _ in range(count):
        call = _refused_call if rng.random() < 0.2 else _compared_call
        yield call(rng)


def _compared_call(rng: np.random.Generator) -> tuple[str, str | None]:
    """Compare the output and the gradients of a call with the loops."""
    dtype = list(TOLERANCE)[rng.choice(4, p=[0.3, 0.5, 0.1, 0.1])]
    backend = str(rng.choice([*available_backends(dtype=dtype), 'auto']))
    half = (*rng.integers(1, 10, size=rng.integers(0, 6)).tolist(), int(rng.choice([1, 3, 5])))
    grid = SharingGrid.from_half(half)
    n, c = rng.integers(1, 4, size=2)
    passed = int(rng.integers(0, 3))
    size = tuple(rng.integers(1, 24, size=2).tolist())
    is_dense = rng.random() < 0.3
    shape = (c, *(2 * rng.integers(0, 9, size=2) + 1)) if is_dense else (c, grid.weight_size, grid.weight_size)
    x, up = (_in_some_layout(rng, rng.normal(size=(n, c + passed, *size)), dtype) for _ in range(2))
    weight = torch.from_numpy(0.5 + rng.normal(size=shape))[:, None].to(dtype)
    bias = torch.from_numpy(1 + rng.normal(size=c)).to(dtype) if rng.random() < 0.5 else None
    arguments = [x, weight] + [bias] * (bias is not None)
    for argument in arguments:
        argument.requires_grad_()
    options = dict(bias=bias, backend=backend, partial=passed > 0)
    output = depthwise_conv2d(x, weight, **options) if is_dense else peripheral_conv2d(x, weight, grid, **options)
    gradients = torch.autograd.grad(output, arguments, up)

    exact = [tensor.detach().double().numpy() for tensor in (x, weight[:, 0], up)]
    kernel = exact[1] if is_dense else expand(exact[1], half)
    expected = exact[0].copy()
    expected[:, :c] = correlate(exact[0][:, :c], kernel) + (0 if bias is None else bias.detach().double().numpy()[:, None, None])
    grad_x, grad_kernel = correlate_grads(exact[0][:, :c], kernel, exact[2][:, :c])
    grad_x = np.concatenate([grad_x, exact[2][:, c:]], 1)
    grad_weight = (grad_kernel if is_dense else collapse(grad_kernel, half))[:, None]
    expected_gradients = [grad_x, grad_weight] + [exact[2][:, :c].sum((0, 2, 3))] * (bias is not None)
    what = (
        f'{backend} {dtype} {tuple(x.shape)} {x.stride()} {shape if is_dense else half} bias={bias is not None} passed={passed}'
    )
    names = ('output', 'gradient of the input', 'gradient of the weight', 'gradient of the bias')
    # The taps of a cell can cancel out. Their gradients are rounded before they are summed.
    summands = np.abs(grad_kernel) if is_dense else collapse(np.abs(grad_kernel), half)
    for name, actual, reference in zip(names, (output, *gradients), (expected, *expected_gradients), strict=False):
        scale = summands if name == 'gradient of the weight' else np.abs(reference)
        difference = np.abs(actual.detach().double().numpy() - reference).max() / max(1.0, scale.max())
        if actual.dtype != dtype or not difference < TOLERANCE[dtype]:
            return what, f'{name}: {actual.dtype}, relative difference {difference:.1e}'
    return what, None


def _in_some_layout(rng: np.random.Generator, values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return values as a tensor that is contiguous, channels_last, transposed, or a view of a larger tensor."""
    tensor = torch.from_numpy(values).to(dtype)
    layout = rng.integers(4)
    if layout == 1:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == 2:
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == 3:
        wider = torch.full((*tensor.shape[:3], 2 * tensor.shape[3] + 1), torch.nan, dtype=dtype)
        wider[..., 1::2] = tensor
        return wider[..., 1::2]
    return tensor


def _refused_call(rng: np.random.Generator) -> tuple[str, str | None]:
    """Call the raw operator or a function with one invalid argument. It must raise a ValueError or RuntimeError."""
    c, size = int(rng.integers(1, 4)), int(rng.integers(1, 12))
    outer, center = int(rng.integers(1, 5)), int(rng.choice([1, 3]))
    cells = [outer, center, outer]
    x, weight, bias = torch.randn(2, c, size, size), torch.randn(c, 1, 3, 3), torch.randn(c)
    options = dict(rows=cells, columns=cells, passed=0, backend='auto')
    wrong = [
        dict(x=x[0]), dict(x=x.int()), dict(x=x[:, :0]), dict(x=x[..., :0]), dict(x=x.double()), dict(x=torch.randn(2, c + 1, 4, 4)),
        dict(weight=weight[0]), dict(weight=weight[:, :, 0]), dict(weight=torch.randn(c + 2, 1, 3, 3)), dict(weight=weight.double()),
        dict(weight=weight.expand(-1, 2, -1, -1)), dict(bias=torch.randn(c + 1)), dict(bias=torch.randn(c, 1)),
        dict(rows=cells[:2]), dict(columns=[*cells, 1]), dict(rows=[-1, 1, 1]), dict(rows=[0, 1, 2]), dict(columns=[2**40] * 3),
        dict(passed=-1), dict(passed=c), dict(passed=2**40), dict(backend='nope'), dict(backend=''), dict(weight=weight.to('meta')),
    ]  # fmt: skip
    change = wrong[rng.integers(len(wrong))]
    arguments = dict(x=x, weight=weight, bias=bias) | options | change
    what = f'refused: { ({name: getattr(value, "shape", value) for name, value in change.items()}) }'
    try:
        torch.ops.mmpelk.depthwise_conv2d(*arguments.values())
    except (ValueError, RuntimeError, NotImplementedError):
        return what, None
    except Exception as error:
        return what, f'{type(error).__name__}: {error}'
    return what, 'was accepted'
