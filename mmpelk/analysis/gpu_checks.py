"""Checks of the operator on a device against torch's convolution in float64. They need torch alone, and no test framework."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vmap

from mmpelk.ops import SharingGrid, describe_backends, peripheral_conv2d
from mmpelk.ops.backends import accepts
from mmpelk.ops.cells import crop

from .plain_networks import plain_backbone

# (N, C, H, W), K, and the size of the fine center.
CASES = (
    ((2, 3, 37, 50), 51, 5), ((1, 2, 131, 140), 101, 7), ((2, 5, 14, 14), 47, 5), ((3, 17, 7, 7), 13, 5), ((1, 2, 9, 12), 31, 31),
    ((1, 2, 9, 20), 31, 31),
)  # fmt: skip
SMALL_CASES = (((2, 3, 5, 6), 7, 3),)
# The case of the layout checks: (N, C, H, W), K, center size, and the number of channels that are convolved.
LAYOUT_CASE, SMALL_LAYOUT_CASE = ((2, 20, 15, 9), 13, 5, 12), ((2, 5, 4, 6), 7, 3, 3)
# The case of all other checks: (N, C, H, W) and K.
PLAIN_CASE = ((2, 8, 24, 24), 31)
# The largest error relative to the largest value. dense in half types is torch's own convolution and is not checked.
MAX_ERRORS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 3e-3, torch.float64: 1e-10}
# Derivatives of second order multiply the rounding errors of several convolutions.
MAX_DERIVATIVE_ERROR = 1e-4
# The largest error of a whole backbone in bfloat16.
MAX_AUTOCAST_ERROR = 0.1
TRITON_BACKENDS = ('triton', 'taps')
# cuDNN would otherwise round float32 to tf32.
without_tf32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)


class CheckFailed(Exception):
    """A result is not what it should be."""


def expected_backends(device: str, dtype: torch.dtype) -> tuple[str, ...]:
    """Return the backends that should run on a device. No kernel runs to find out.

    Triton's interpreter counts as a device for tests (``TRITON_INTERPRET=1``).
    """
    on_triton = torch.device(device).type == 'cuda' or os.environ.get('TRITON_INTERPRET') == '1'
    return (*(TRITON_BACKENDS if on_triton and dtype != torch.float64 else ()), 'fft', 'dense')


def checks(device: str, small: bool = False) -> dict[str, Callable[[], dict]]:
    """Return the checks by name. Each one returns numbers to report, and raises an error if something is wrong.

    The names depend only on the type of the device. A check of a backend that cannot run fails with the reason.

    Args:
        device: Device to check.
        small: Whether to use tiny maps and networks, on which a test of the checks is fast.
    """
    found: dict[str, Callable[[], dict]] = {'available backends': partial(check_available, device)}
    for dtype in MAX_ERRORS:
        for backend in expected_backends(device, dtype):
            if backend == 'dense' and dtype.itemsize == 2:
                continue
            name = str(dtype).removeprefix('torch.')
            cases = accepted_cases(backend, SMALL_CASES if small else CASES)
            found[f'{backend}, {name}, float64 reference'] = partial(check_against_float64, device, backend, dtype, cases)
            found[f'{backend}, {name}, layouts and repeated bits'] = partial(
                check_layouts_and_bits, device, backend, dtype, small
            )
    found['autocast inside a backbone'] = partial(check_autocast, device, small)
    on_gpu = torch.device(device).type == 'cuda'
    on_triton = [name for name in expected_backends(device, torch.float32) if name in TRITON_BACKENDS]
    names = (*(on_triton or ['fft']), 'auto')
    for backend in names:
        found[f'deterministic algorithms, {backend}'] = partial(check_deterministic, device, backend, small)
        found[f'derivatives, {backend}'] = partial(check_derivatives, device, backend, small)
        if on_gpu:
            found[f'CUDA graph, {backend}'] = partial(check_cuda_graph, device, backend)
    for backend in names:  # last, because compiling takes the longest
        for mode in ('default', 'reduce-overhead') if on_gpu else ('aot_eager',):
            found[f'torch.compile, {backend}, {mode}'] = partial(check_compile, device, backend, mode, small)
    return found


def accepted_cases(backend: str, cases: Sequence[tuple]) -> tuple[tuple, ...]:
    """Return the cases whose cells, cropped to the map, a backend accepts."""
    return tuple(
        (shape, kernel_size, center)
        for shape, kernel_size, center in cases
        if accepts(backend, crop(SharingGrid.peripheral(kernel_size, center).cells, shape[3])[0])
    )


def check_available(device: str) -> dict[str, dict]:
    """Report every backend for every type, and fail if one that should run cannot."""
    for dtype in MAX_ERRORS:
        for backend, reason in lacking_backends(device, dtype).items():
            raise CheckFailed(f'{backend} with {dtype} is {reason}')
    return dict(backends={str(dtype).removeprefix('torch.'): describe_backends(device, dtype) for dtype in MAX_ERRORS})


def lacking_backends(device: str, dtype: torch.dtype) -> dict[str, str]:
    """Return the backends that should run on a device and cannot, each with the reason."""
    lines = describe_backends(device, dtype)
    return {name: lines[name] for name in expected_backends(device, dtype) if lines[name].startswith('unavailable')}


def max_error(backend: str, dtype: torch.dtype) -> float:
    """Return the largest error of a backend. torch's convolution adds in any order, so that of 'dense' is larger."""
    return (10 if backend == 'dense' else 1) * MAX_ERRORS[dtype]


@without_tf32
def check_against_float64(device: str, backend: str, dtype: torch.dtype, cases: Sequence[tuple]) -> dict[str, float]:
    """Compare the output and all gradients with torch's convolution in float64 on the CPU."""
    errors, limit = {}, max_error(backend, dtype)
    for shape, kernel_size, center in cases:
        rounded, expected = _reference_results(shape, kernel_size, center, dtype.itemsize == 2)
        *ours, up = (tensor.to(device, dtype, copy=True) for tensor in rounded)
        x, w, bias = (tensor.requires_grad_() for tensor in ours)
        output = peripheral_conv2d(x, w, SharingGrid.peripheral(kernel_size, center), bias=bias, backend=backend)
        values = output, *torch.autograd.grad(output, (x, w, bias), up)
        for name, value, reference in zip(('output', 'input', 'weight', 'bias'), values, expected, strict=True):
            key = f'{name} {shape} K={kernel_size}'
            errors[key] = _relative(value, reference)
            if not errors[key] < limit:
                raise CheckFailed(f'{key}: error {errors[key]:.2g}, limit {limit:.2g}')
    return dict(largest_error=_largest(errors.values()), limit=limit)


@lru_cache(maxsize=2 * len(CASES))
def _reference_results(shape: tuple, kernel_size: int, center: int, half: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return an input, weight, bias, and gradient of the output, and the output and gradients, all in float64.

    The former are numbers that both half types can represent, or else float32. So all backends and two types share the results,
    which take seconds.
    """
    grid = SharingGrid.peripheral(kernel_size, center)
    rounded = [(tensor.bfloat16().half() if half else tensor.float()).double() for tensor in _random(shape, grid)]
    *exact, up = (tensor.clone().requires_grad_() for tensor in rounded)
    output = _reference(*exact, grid)
    return rounded, [output.detach(), *torch.autograd.grad(output, exact, up.detach())]


@without_tf32
def check_layouts_and_bits(device: str, backend: str, dtype: torch.dtype, small: bool) -> dict[str, float]:
    """Compare channels_last, the partial form, and repeated calls, which must give the same bits.

    'fft' and 'dense' call libraries that may choose another algorithm for another layout, so their layouts are compared with a
    tolerance.
    """
    shape, kernel_size, center, convolved = SMALL_LAYOUT_CASE if small else LAYOUT_CASE
    grid = SharingGrid.peripheral(kernel_size, center)
    x, w, _, up = (tensor.to(device, dtype) for tensor in _random(shape, grid))
    w = w[:convolved]

    def run(x: Tensor) -> tuple[Tensor, ...]:
        x, weight = x.detach().requires_grad_(), w.detach().requires_grad_()
        output = peripheral_conv2d(x, weight, grid, backend=backend, partial=True)
        return output, *torch.autograd.grad(output, (x, weight), up)

    first, again, last = run(x), run(x), run(x.contiguous(memory_format=torch.channels_last))
    if not torch.equal(first[0][:, convolved:], x[:, convolved:]):
        raise CheckFailed('the channels that pass have changed')
    if not last[0].is_contiguous(memory_format=torch.channels_last):
        raise CheckFailed('the output of a channels_last map is not channels_last')
    limit = max_error(backend, dtype)
    difference = _largest(_relative(b, a.double().cpu()) for a, b in zip(first, last, strict=True))
    if not difference < limit:
        raise CheckFailed(f'channels_last differs by {difference:.2g}')
    if backend not in ('fft', 'dense') and not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise CheckFailed('two calls gave different bits')
    return dict(channels_last_difference=difference, limit=limit)


@without_tf32
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
    difference = _largest(
        _relative(output, reference.double().cpu()) for output, reference in zip(outputs, expected, strict=True)
    )
    if not difference < MAX_AUTOCAST_ERROR:
        raise CheckFailed(f'the outputs differ by {difference:.2g} from those in float32')
    return dict(difference_from_float32=difference, limit=MAX_AUTOCAST_ERROR)


@without_tf32
def check_deterministic(device: str, backend: str, small: bool) -> dict[str, float]:
    """Compute the output and the gradients twice with deterministic algorithms, which must give the same bits."""
    grid, x, w, up = _case(device, small)
    expected = _with_gradients(x, w, up, grid, backend)
    with deterministic_algorithms():
        first, again = (_with_gradients(x, w, up, grid, backend) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise CheckFailed('two calls gave different bits')
    return _compare(first, expected, MAX_ERRORS[torch.float32], 'a plain call')


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Turn torch's deterministic algorithms on, and restore the setting afterward."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@without_tf32
def check_derivatives(device: str, backend: str, small: bool) -> dict[str, float]:
    """Compare second-order gradients, jvp, and vmap with those of 'dense' in float64 on the CPU."""
    grid, x, w, _ = _case(device, small)
    ours = _derivatives(x, w, grid, backend)
    expected = _derivatives(x.detach().cpu().double(), w.detach().cpu().double(), grid, 'dense')
    return _compare(ours, expected, MAX_DERIVATIVE_ERROR, "'dense' in float64")


def _derivatives(x: Tensor, w: Tensor, grid: SharingGrid, backend: str) -> list[Tensor]:
    def call(x: Tensor, w: Tensor) -> Tensor:
        return peripheral_conv2d(x, w, grid, backend=backend)

    def loss_of_one_image(x: Tensor, w: Tensor) -> Tensor:
        return call(x[None], w).square().sum()

    x, w = (tensor.detach().requires_grad_() for tensor in (x, w))
    first = torch.autograd.grad(call(x, w).square().sum(), (x, w), create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in first), (x, w))
    x, w = x.detach(), w.detach()
    tangent = jvp(call, (x, w), (x.flip(0), w.flip(0)))[1]
    of_each_image = vmap(grad(loss_of_one_image, (0, 1)), (0, None))(x, w)
    with_each_kernel = vmap(call, (None, 0))(x, torch.stack((w, w.flip(0))))
    return [*first, *second, tangent, *of_each_image, with_each_kernel]


@without_tf32
def check_cuda_graph(device: str, backend: str) -> dict[str, float]:
    """Capture the output and the gradients in a CUDA graph, and compare a replay on other values with a plain call."""
    grid, x, w, up = _case(device, False)
    graph, captured = capture(partial(_with_gradients, x, w, up, grid, backend), device)
    with torch.no_grad():
        x.copy_(x.flip(0))
    graph.replay()
    torch.cuda.synchronize(device)
    return _compare(captured, _with_gradients(x, w, up, grid, backend), MAX_ERRORS[torch.float32], 'a plain call')


def capture(call: Callable[[], object], device: str) -> tuple[torch.cuda.CUDAGraph, object]:
    """Capture a call in a CUDA graph. Return the graph, and the tensors that a replay writes."""
    with torch.cuda.device(device):
        # The first calls compile and tune, which a capture forbids. torch requires another stream for them.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()
    return graph, result


@without_tf32
def check_compile(device: str, backend: str, mode: str, small: bool) -> dict[str, float]:
    """Compare a compiled call and its gradients with a plain call.

    Args:
        device, backend, small: See :func:`checks`.
        mode: A mode of inductor, or 'aot_eager' for a compilation without inductor.
    """
    grid, x, w, _ = _case(device, small)

    def call(x: Tensor, w: Tensor) -> Tensor:
        return peripheral_conv2d(x, w, grid, backend=backend).sin().sum()

    torch.compiler.reset()  # torch limits how often one function is compiled
    how = dict(backend='aot_eager') if mode == 'aot_eager' else dict(mode=mode)
    compiled, differences = torch.compile(call, fullgraph=True, **how), []
    # 'reduce-overhead' runs once, then captures a CUDA graph, and then replays it.
    for values in (x, x, x.flip(0)):
        leaf = values.detach().requires_grad_()
        if mode == 'reduce-overhead':
            torch.compiler.cudagraph_mark_step_begin()
        ours = torch.autograd.grad(compiled(leaf, w), (leaf, w))
        expected = torch.autograd.grad(call(leaf, w), (leaf, w))
        differences.append(_compare(ours, expected, MAX_ERRORS[torch.float32], 'a plain call')['difference'])
    return dict(difference=max(differences), limit=MAX_ERRORS[torch.float32])


def _case(device: str, small: bool) -> tuple[SharingGrid, Tensor, Tensor, Tensor]:
    """Return a grid, and an input, a weight, and a gradient of the output in float32."""
    shape, *sizes = ((2, 2, 4, 5), 7, 3) if small else PLAIN_CASE
    grid = SharingGrid.peripheral(*sizes)
    x, w, _, up = (tensor.to(device, torch.float32) for tensor in _random(shape, grid))
    return grid, x.requires_grad_(), w.requires_grad_(), up


def _with_gradients(x: Tensor, w: Tensor, up: Tensor, grid: SharingGrid, backend: str) -> list[Tensor]:
    output = peripheral_conv2d(x, w, grid, backend=backend)
    return [output, *torch.autograd.grad(output, (x, w), up)]


def _compare(values: Sequence[Tensor], expected: Sequence[Tensor], limit: float, name: str) -> dict[str, float]:
    difference = _largest(_relative(a, b.detach().double().cpu()) for a, b in zip(values, expected, strict=True))
    if not difference < limit:
        raise CheckFailed(f'the results differ by {difference:.2g} from those of {name}; limit {limit:.2g}')
    return dict(difference=difference, limit=limit)


def _random(shape: tuple[int, int, int, int], grid: SharingGrid) -> list[Tensor]:
    """Return an input, a weight, a bias, and a gradient of the output, float64. The weights have a nonzero mean."""
    generator = torch.Generator().manual_seed(0)
    sizes = shape, (shape[1], 1, grid.weight_size, grid.weight_size), shape[1:2], shape
    x, w, bias, up = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return [x, w + 0.5, bias + 1, up]


def _reference(x: Tensor, w: Tensor, bias: Tensor, grid: SharingGrid) -> Tensor:
    cells = torch.tensor(grid.cells)
    kernel = w.repeat_interleave(cells, 2).repeat_interleave(cells, 3)
    return F.conv2d(x, kernel, bias, padding=grid.kernel_size // 2, groups=x.shape[1])


def _largest(values: Iterable[float]) -> float:
    """Return the largest value, or NaN if one is NaN. Python's ``max`` can miss a NaN."""
    return torch.tensor(list(values), dtype=torch.float64).max().item()


def _relative(value: Tensor, reference: Tensor) -> float:
    """Return the largest difference relative to the largest expected value. It is NaN if a value is NaN."""
    return ((value.detach().cpu().double() - reference).abs().max() / reference.abs().max()).item()
