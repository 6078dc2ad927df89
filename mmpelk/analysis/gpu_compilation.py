"""Compile the Triton kernels that ``tools/gpu.py`` measures, on all cores and before anything is measured.

The kernel of ``taps`` takes 5 to 45 seconds for each type, grid, and block, and a process compiles one after the other. Here the same
convolutions run on the device 'meta', and the kernels are recorded instead of launched. Processes without a GPU then compile them as
Triton does at a launch (``JITFunction.warmup``). The processes that measure find them in Triton's cache on disk (``TRITON_CACHE_DIR``).
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmpelk.ops import SharingGrid, peripheral_conv2d
from mmpelk.ops.backends import BACKENDS
from mmpelk.ops.backends.triton import TYPES, on_device
from mmpelk.ops.operator import compute_conv, compute_weight_grad
from mmpelk.utils.errors import InputError, first_line

from . import gpu_checks
from .operator_benchmark import Shape, default_grid
from .plain_networks import plain_backbone

COMPUTE = {
    torch.ops.mmpelk.depthwise_conv2d.default: compute_conv,
    torch.ops.mmpelk.depthwise_conv2d_weight_grad.default: compute_weight_grad,
}
# torch.compile sets this variable. The kernels must be compiled with the assembler of the process that launches them.
PTXAS = 'TRITON_PTXAS_PATH'
PTXAS_PATH = os.environ.get(PTXAS)
NETWORKS = ('PeLK-T', 'PeLK-101-T', 'SLaK-T')  # those with large kernels that Triton can compute


@dataclass(frozen=True)
class Unaligned:
    """A tensor that does not start at a multiple of 16 bytes. For one that does, its type is enough."""

    dtype: torch.dtype

    def data_ptr(self) -> int:
        """Return an address that is not a multiple of 16."""
        return 1


class Variant(NamedTuple):
    """What Triton compiles a kernel for.

    Attributes:
        module, name: Where the kernel is.
        arguments: For each argument, the type of its tensor, :class:`Unaligned`, or a number that Triton treats like the argument.
        constants: Constants and options of the compiler by name.
    """

    module: str
    name: str
    arguments: tuple[torch.dtype | Unaligned | int, ...]
    constants: tuple[tuple[str, object], ...]

    @property
    def seconds(self) -> float:
        """About how long one core needs to compile it."""
        constants = dict(self.constants)
        return 0.5 + constants['COLUMNS'] * constants['EDGES'][-1] / 130 if 'EDGES' in constants else 0.5


@contextmanager
def recorded_variants() -> Iterator[dict[Variant, None]]:
    """Record what the Triton backends would launch for each convolution, with every block that they time, and launch nothing.

    The convolutions may run on any device, such as 'meta'.
    """
    from triton.runtime.jit import JITFunction

    found: dict[Variant, None] = {}

    def record(kernel: JITFunction, *arguments: object, grid: object, warmup: bool, **constants: object) -> None:
        values = tuple(_representative(*pair) for pair in zip(kernel.params, arguments, strict=False))  # the constants follow
        found[Variant(kernel.__module__, kernel.__name__, values, tuple(sorted(constants.items())))] = None

    def launch_all(
        kernel: Callable, blocks: tuple[tuple[int, ...], ...], tune: bool, grid: object, *arguments: object, **constants: object
    ) -> None:
        for block in blocks:
            kernel((block,))[grid](*arguments, **constants)

    with ExitStack() as stack:
        stack.enter_context(patch.object(JITFunction, 'run', record))
        for name in gpu_checks.TRITON_BACKENDS:
            stack.enter_context(patch.object(BACKENDS[name], 'launch', launch_all))
            stack.enter_context(patch.object(BACKENDS[name], 'unavailable', lambda device, dtype: None))
        stack.enter_context(_EveryTritonBackend())
        yield found


class _EveryTritonBackend(TorchDispatchMode):
    """Compute each convolution by every Triton backend that accepts it, and then as usual."""

    def __torch_dispatch__(
        self, function: Callable, types: Sequence[type], args: tuple = (), kwargs: Mapping[str, object] | None = None
    ) -> object:
        if function in COMPUTE and args[0].dtype in TYPES:
            for name in gpu_checks.TRITON_BACKENDS:
                with suppress(InputError):  # 'taps' refuses kernels with many columns of cells
                    COMPUTE[function](*args[:-1], name)
        return function(*args, **(kwargs or {}))


def _representative(parameter: object, value: object) -> torch.dtype | Unaligned | int:
    """Return a value for which Triton compiles the same kernel.

    It distinguishes numbers that are 1 and multiples of 16, and addresses that are multiples of 16 bytes. torch allocates memory at
    such addresses.
    """
    if isinstance(value, Tensor):
        aligned = parameter.do_not_specialize or value.storage_offset() * value.itemsize % 16 == 0
        return value.dtype if aligned else Unaligned(value.dtype)
    if parameter.do_not_specialize:
        return 2
    return 1 if value == 1 else 16 if value % 16 == 0 else 2


def operator_variants(shapes: Sequence[Shape], dtypes: Sequence[torch.dtype]) -> list[Variant]:
    """Return the kernels of the convolutions of :func:`operator_calls`."""
    with recorded_variants() as found:
        for dtype in dtypes:
            for n, c, size, k in shapes:
                _convolve((n, c, size, size), c, default_grid(k), dtype, has_bias=False)
    return list(found)


def check_variants() -> list[Variant]:
    """Return the kernels of the convolutions of :func:`gpu_checks.checks`, except for those of the backbone."""
    with recorded_variants() as found:
        for dtype in TYPES:
            _convolve((1, 1, 1, 1), 1, SharingGrid.dense(1), dtype, has_bias=False)  # whether a backend is available
            for shape, kernel_size, center in gpu_checks.CASES:
                _convolve(shape, shape[1], SharingGrid.peripheral(kernel_size, center), dtype, has_bias=True)
            shape, kernel_size, center, convolved = gpu_checks.LAYOUT_CASE
            _convolve(shape, convolved, SharingGrid.peripheral(kernel_size, center), dtype, has_bias=False)
        shape, kernel_size = gpu_checks.PLAIN_CASE
        _convolve(shape, shape[1], SharingGrid.peripheral(kernel_size), torch.float32, has_bias=False)
    return list(found)


def _convolve(shape: tuple[int, int, int, int], convolved: int, grid: SharingGrid, dtype: torch.dtype, has_bias: bool) -> None:
    """Compute the output and the gradients on 'meta', in both memory layouts."""
    sizes = [(convolved, 1, grid.weight_size, grid.weight_size), *([(convolved,)] if has_bias else [])]
    weights = [torch.empty(size, device='meta', dtype=dtype, requires_grad=True) for size in sizes]
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.empty(shape, device='meta', dtype=dtype, memory_format=layout).requires_grad_()
        output = peripheral_conv2d(x, weights[0], grid, bias=weights[1] if has_bias else None, partial=True)
        torch.autograd.grad(output, (x, *weights), torch.empty_like(output))


def network_variants(sizes: Sequence[int], dtypes: Sequence[torch.dtype]) -> list[Variant]:
    """Return the kernels of the inference and of a training step of the backbones, for square images of some sizes."""
    with recorded_variants() as found, torch.device('meta'):
        for name, training, dtype in product(NETWORKS, (False, True), dtypes):
            backbone = plain_backbone(name, training, depths=(1, 1, 1, 1)).to(dtype)  # all blocks of a stage are alike
            for size in sizes:
                with torch.set_grad_enabled(training):
                    outputs = backbone(torch.empty(2, 3, size, size, dtype=dtype))
                if training:
                    sum(output.sum() for output in outputs).backward()
    return list(found)


def current_target(device: str) -> object:
    """Return what Triton compiles for on a GPU, its ``GPUTarget``."""
    import triton

    with on_device(torch.device(device)):
        return triton.runtime.driver.active.get_current_target()


def compile_kernels(variants: Iterable[Variant], target: object) -> dict[str, int]:
    """Compile kernels in a process for each core, those first that take the longest, and print the progress.

    The processes use no GPU. A kernel that Triton's cache on disk has takes no time.

    Args:
        variants: The kernels.
        target: Triton's ``GPUTarget``.

    Raises:
        CheckFailed: If a kernel cannot be compiled. The others are compiled.
    """
    variants = sorted(set(variants), key=lambda variant: -variant.seconds)
    total, done, errors, started = sum(variant.seconds for variant in variants), 0.0, [], time.monotonic()
    context = multiprocessing.get_context('spawn')
    workers, setting = min(len(os.sched_getaffinity(0)), len(variants)), (target, PTXAS_PATH)
    with ProcessPoolExecutor(workers, context, _compile_only_for, setting) as pool:
        futures = {pool.submit(_compile, variant): variant for variant in variants}
        for count, future in enumerate(as_completed(futures), 1):
            if error := future.exception():
                errors.append(f'{futures[future].name}: {type(error).__name__}: {first_line(error)}')
            done += futures[future].seconds
            left = (time.monotonic() - started) * (total / done - 1)
            print(f'{count} of {len(variants)} kernels compiled, about {left:.0f} s left', flush=True)
    if errors:
        raise gpu_checks.CheckFailed(f'{len(errors)} of {len(variants)} kernels do not compile; the first one: {errors[0]}')
    return dict(kernels=len(variants))


class _Compiler:
    """A replacement for Triton's GPU driver. Compiling uses only its target."""

    def __init__(self, target: object) -> None:
        self.target = target

    def get_current_device(self) -> int:
        """Return any number."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """Return any number."""
        return 0

    def get_current_target(self) -> object:
        """Return the target."""
        return self.target


def _compile_only_for(target: object, ptxas: str | None = PTXAS_PATH) -> None:
    import triton

    if ptxas is None:
        os.environ.pop(PTXAS, None)
    triton.runtime.driver.set_active(_Compiler(target))


def _compile(variant: Variant) -> None:
    kernel = getattr(import_module(variant.module), variant.name)
    kernel.warmup(*variant.arguments, grid=(1,), **dict(variant.constants))
