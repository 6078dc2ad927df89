"""Checks of the operator on a device against torch's convolution in float64. They need torch alone, and no test framework."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpelk.ops import SharingGrid, available_backends, peripheral_conv2d

from .plain_networks import plain_backbone

# (N, C, H, W), K, and the size of the fine center.
CASES = (
    ((2, 3, 37, 50), 51, 5), ((1, 2, 131, 140), 101, 7), ((2, 5, 14, 14), 47, 5), ((3, 17, 7, 7), 13, 5), ((1, 2, 9, 20), 31, 31),
)  # fmt: skip
SMALL_CASES = (((2, 3, 5, 6), 7, 3),)
# The largest error relative to the largest value. dense in half types is torch's own convolution and is not checked.
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 1e-2}


class CheckFailed(Exception):
    """A result is not what it should be."""


def checks(device: str, small: bool = False) -> dict[str, Callable[[], dict]]:
    """Return the checks by name. Each one returns numbers to report, and raises CheckFailed if something is wrong.

    Args:
        device: Device to check.
        small: Whether to use tiny maps and networks, on which a test of the checks is fast.
    """
    found: dict[str, Callable[[], dict]] = {}
    for dtype in LIMITS:
        for backend in available_backends(device, dtype):
            if backend == 'dense' and dtype.itemsize == 2:
                continue
            name = str(dtype).removeprefix('torch.')
            cases = SMALL_CASES if small else CASES
            found[f'{backend}, {name}, float64 reference'] = _bind(check_against_float64, device, backend, dtype, cases)
            found[f'{backend}, {name}, layouts and repeated bits'] = _bind(check_layouts_and_bits, device, backend, dtype)
    found['autocast inside a backbone'] = _bind(check_autocast, device, small)
    if torch.device(device).type == 'cuda':
        found['CUDA graph'] = _bind(check_cuda_graph, device)
        for mode in ('default', 'reduce-overhead'):
            found[f'torch.compile, {mode}'] = _bind(check_compile, device, mode)
    return found


def _bind(check: Callable[..., dict], *args: object) -> Callable[[], dict]:
    return lambda: check(*args)


def check_against_float64(device: str, backend: str, dtype: torch.dtype, cases: Sequence[tuple]) -> dict[str, float]:
    """Compare the output and the gradients by input, weight, and bias with torch's convolution in float64 on the CPU."""
    errors = {}
    for shape, kernel_size, center in cases:
        grid = SharingGrid.peripheral(kernel_size, center)
        tensors = _random(shape, grid)
        # Both computations get the same rounded values.
        rounded = [tensor.to(device, dtype) for tensor in tensors]
        *ours, up = (tensor.detach().requires_grad_() for tensor in rounded)
        *exact, exact_up = (tensor.double().cpu().requires_grad_() for tensor in rounded)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            output = peripheral_conv2d(ours[0], ours[1], grid, bias=ours[2], backend=backend)
            grads = torch.autograd.grad(output, ours, up.detach())
        expected = _reference(*exact, grid)
        expected_grads = torch.autograd.grad(expected, exact, exact_up.detach())
        for name, value, reference in zip(
            ('output', 'input', 'weight', 'bias'), (output, *grads), (expected, *expected_grads), strict=True
        ):
            key = f'{name} {shape} K={kernel_size}'
            errors[key] = _relative(value, reference)
            if not errors[key] < LIMITS[dtype]:
                raise CheckFailed(f'{key}: error {errors[key]:.2g}, limit {LIMITS[dtype]:.2g}')
    return dict(largest_error=max(errors.values()), limit=LIMITS[dtype])


def check_layouts_and_bits(device: str, backend: str, dtype: torch.dtype) -> dict[str, float]:
    """Compare channels_last, the partial form, and repeated calls, which must give the same bits.

    'fft' and 'dense' call libraries that may choose another algorithm for another layout, so their layouts are compared with a
    tolerance.
    """
    grid = SharingGrid.peripheral(13)
    x, w, _, up = (tensor.to(device, dtype) for tensor in _random((2, 20, 15, 9), grid))
    w = w[:12]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x, weight = x.detach().requires_grad_(), w.detach().requires_grad_()
        output = peripheral_conv2d(x, weight, grid, backend=backend, partial=True)
        return output, *torch.autograd.grad(output, (x, weight), up)

    first, again, last = run(x), run(x), run(x.contiguous(memory_format=torch.channels_last))
    if not torch.equal(first[0][:, 12:], x[:, 12:]):
        raise CheckFailed('the channels that pass have changed')
    if not last[0].is_contiguous(memory_format=torch.channels_last):
        raise CheckFailed('the output of a channels_last map is not channels_last')
    difference = max(_relative(b, a.double().cpu()) for a, b in zip(first, last, strict=True))
    if not difference < LIMITS[dtype]:
        raise CheckFailed(f'channels_last differs by {difference:.2g}')
    if backend not in ('fft', 'dense') and not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise CheckFailed('two calls gave different bits')
    return dict(channels_last_difference=difference)


def check_autocast(device: str, small: bool) -> dict[str, float]:
    """Train a PeLK for one step under autocast in bfloat16, and compare its outputs with those in float32."""
    sizes = dict(depths=(1, 1, 1, 1), channels=(8, 16, 16, 16)) if small else {}
    torch.manual_seed(0)
    model = plain_backbone('PeLK-T', True, **sizes).to(device)
    images = torch.randn(2, 3, 64 if small else 224, 64 if small else 224, device=device)
    expected = [output.detach() for output in model(images)]
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        outputs = model(images)
        loss = sum(output.float().square().mean() for output in outputs)
    loss.backward()
    if not all(
        p.grad is not None and p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in model.parameters() if p.ndim > 1
    ):
        raise CheckFailed('a gradient is missing, not finite, or of another type than its parameter')
    difference = max(_relative(output, reference.double().cpu()) for output, reference in zip(outputs, expected, strict=True))
    if not difference < 0.1:
        raise CheckFailed(f'the outputs differ by {difference:.2g} from those in float32')
    return dict(difference_from_float32=difference)


def check_cuda_graph(device: str) -> dict[str, float]:
    """Capture a call in a CUDA graph, and compare a replay on other values with a plain call."""
    grid = SharingGrid.peripheral(31)
    x, w, *_ = (tensor.to(device, torch.float32) for tensor in _random((2, 8, 24, 24), grid))
    with torch.no_grad():
        peripheral_conv2d(x, w, grid)  # compiles and tunes
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = peripheral_conv2d(x, w, grid)
        x.copy_(x.flip(0))
        graph.replay()
        difference = _relative(output, peripheral_conv2d(x, w, grid).double().cpu())
    if not difference < LIMITS[torch.float32]:
        raise CheckFailed(f'the replay differs by {difference:.2g}')
    return dict(difference=difference)


def check_compile(device: str, mode: str) -> dict[str, float]:
    """Compare a compiled call and its gradients with a plain call."""
    grid = SharingGrid.peripheral(31)
    x, w, *_ = (tensor.to(device, torch.float32).requires_grad_() for tensor in _random((2, 8, 24, 24), grid))

    def call(x: Tensor, w: Tensor) -> Tensor:
        return peripheral_conv2d(x, w, grid).sin().sum()

    expected = torch.autograd.grad(call(x, w), (x, w))
    compiled = torch.compile(call, fullgraph=True, mode=mode)
    grads = torch.autograd.grad(compiled(x, w), (x, w))
    difference = max(_relative(grad, reference.double().cpu()) for grad, reference in zip(grads, expected, strict=True))
    if not difference < LIMITS[torch.float32]:
        raise CheckFailed(f'the gradients differ by {difference:.2g}')
    return dict(difference=difference)


def _random(shape: tuple[int, int, int, int], grid: SharingGrid) -> list[Tensor]:
    """Return an input, a weight, a bias, and a gradient of the output, float64. The weights have a mean other than zero."""
    generator = torch.Generator().manual_seed(0)
    sizes = shape, (shape[1], 1, grid.weight_size, grid.weight_size), shape[1:2], shape
    x, w, bias, up = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return [x, w + 0.5, bias + 1, up]


def _reference(x: Tensor, w: Tensor, bias: Tensor, grid: SharingGrid) -> Tensor:
    cells = torch.tensor(grid.cells)
    kernel = w.repeat_interleave(cells, 2).repeat_interleave(cells, 3)
    return F.conv2d(x, kernel, bias, padding=grid.kernel_size // 2, groups=x.shape[1])


def _relative(value: Tensor, reference: Tensor) -> float:
    """Return the largest difference relative to the largest expected value. It is NaN if a value is NaN."""
    return ((value.detach().cpu().double() - reference).abs().max() / reference.abs().max()).item()
