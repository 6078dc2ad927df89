"""What ``tools/gpu.py`` measures: many short items, each of which leaves its own result."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmpelk.ops import peripheral_conv2d
from mmpelk.ops.backends import BACKENDS
from mmpelk.utils.errors import first_line

from . import gpu_checks, gpu_compilation, plain_networks
from .benchmark_report import PRECISIONS
from .operator_benchmark import GPU_SHAPES, SWEEP, Shape, copies_beyond_cache, default_grid, operator_calls, operator_work
from .timing import interleaved
from .triton_resources import compile_variants

TESTS = Path(__file__).parents[2] / 'tests'
OPENMMLAB = all(find_spec(name) for name in ('mmengine', 'mmcv', 'mmseg', 'mmpretrain'))
OURS, WIDE, SLAK = 'auto', 'ConvNeXt-T x 1.3', 'SLaK-T, published'
TRAINED = ('PeLK-T', 'PeLK-101-T', WIDE, 'SLaK-T')
TEST_MODULES = ('pytest', 'hypothesis', 'numpy')
# Bytes of the maps of means that are written and read again in one part.
MAX_MAPS_BYTES = {'16 MB': 2**24, '32 MB': 2**25, '64 MB': 2**26, 'unlimited': 2**62}
# By default, cuDNN would round float32 to tf32, which the Triton backends do not, and would not time its algorithms, as they do.
with_fair_cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
# The groups of tests/ops that run on a GPU, each in less than a few minutes.
TEST_GROUPS = {
    'triton': ('tests/ops/backends/test_triton.py',),
    'loops': ('-m', 'gpu', 'tests/ops', '-k', 'match_the_loops and not taps'),
    'loops, taps': ('-m', 'gpu', 'tests/ops', '-k', 'match_the_loops and taps'),  # compiles about 100 kernels
    'large maps': ('-m', 'gpu', 'tests/ops', '-k', 'large_maps'),
    'others': ('-m', 'gpu', 'tests/ops', '-k', 'not match_the_loops and not large_maps'),
}


@dataclass(frozen=True)
class Scale:
    """How much to measure.

    Attributes:
        shapes: (N, C, H = W, K) of the operator.
        sweep: Kernel sizes for the first shape.
        inference: (batch, pixels) of inference.
        training: (batch, pixels) of a training step.
        largest_batch: The largest power of two to try.
        network: Options of :func:`plain_backbone`, such as smaller ``depths``.
        rounds: Timed rounds.
        budget: Seconds for each call at most.
    """

    shapes: tuple = GPU_SHAPES
    sweep: tuple = SWEEP
    inference: tuple = ((128, 224), (16, 512))
    training: tuple = (8, 512)
    largest_batch: int = 256
    network: tuple = ()
    rounds: int = 5
    budget: float = 1.0

    @property
    def is_small(self) -> bool:
        return bool(self.network)


SMALL = Scale(((1, 3, 9, 13),), (7,), ((2, 64),), (2, 64), 4, (('depths', (1, 1, 1, 1)), ('channels', (8, 16, 16, 16))), 1, 0.01)


def plan(device: str, scale: Scale) -> dict[str, dict[str, Callable[[], dict]]]:
    """Return the items of each step, in the order of their value. An item returns its result, which JSON can hold.

    The names depend only on the type of the device and on the scale, and no kernel runs.

    Args:
        device: Device to measure.
        scale: How much to measure.
    """
    precisions = [name for name in ('bfloat16', 'float32', 'float16') if not scale.is_small or name == 'float32']
    on_gpu, largest = torch.device(device).type == 'cuda', scale.shapes[0]
    steps: dict[str, dict[str, Callable[[], dict]]] = {}
    if on_gpu:
        steps['compilation'] = {'kernels of the checks, the operator, and the networks': partial(compile_most, device, scale)}
    steps['checks'] = gpu_checks.checks(device, scale.is_small)

    def operator_items(shapes: tuple, precisions: list[str]) -> dict[str, Callable[[], dict]]:
        return {
            f'{precision}, {"forward and backward" if backward else "forward"}, {shape}': partial(
                operator_times, shape, backward, device, precision, scale
            )
            for shape in shapes
            for precision in precisions
            for backward in (False, True)
        }

    steps['operator'] = operator_items((largest,), precisions[:2])
    if on_gpu:
        for precision in precisions[:2]:
            steps['operator'][f'{precision}, CUDA graphs beside plain calls, {largest}'] = partial(
                graph_times, largest, device, precision, scale
            )
            steps['operator'][f'{precision}, sizes of the parts, {largest}'] = partial(
                part_times, largest, device, precision, scale
            )
    steps['inference'] = {
        f'{precision}, batch {batch}, {size} px': partial(inference_times, batch, size, device, precision, scale)
        for batch, size in scale.inference
        for precision in precisions
    }
    steps['training'] = {
        f'{precision}, {name}': partial(training_time, name, *scale.training, device, precision, scale)
        for precision in precisions
        for name in TRAINED
    }
    steps['profile'] = {
        f'{precision}, {name}': partial(profile_step, name, *scale.training, device, precision, scale)
        for precision in precisions[:2]
        for name in (TRAINED[0], WIDE)
    }
    steps['shapes'] = {
        name: item for name, item in operator_items(scale.shapes, precisions).items() if name not in steps['operator']
    }
    if on_gpu:
        steps['sweep_compilation'] = {'kernels of the sweep': partial(compile_sweep, device, scale)}
    steps['sweep'] = {
        f'{precision}, {"forward and backward" if backward else "forward"}, K = {k}': partial(
            operator_times, (*largest[:3], k), backward, device, precision, scale
        )
        for precision in precisions
        for backward in (False, True)
        for k in scale.sweep
    }
    steps['batches'] = {
        f'{precision}, {name}': partial(largest_batches, name, scale.training[1], device, precision, scale)
        for precision in precisions[:2]
        for name in TRAINED[:3]
    }
    if on_gpu and TESTS.is_dir():
        steps['tests'] = {name: partial(run_tests, arguments) for name, arguments in TEST_GROUPS.items()}
    if on_gpu:  # last, because it needs no GPU: tools/triton_report.py can do the same elsewhere
        steps['kernels'] = {'registers, spills, and shared memory': partial(kernel_resources, device)}
    return steps


def compile_most(device: str, scale: Scale) -> dict[str, int]:
    """Compile the kernels of the items before the sweep, except for the tests."""
    dtypes, sizes = list(PRECISIONS.values()), {size for _, size in (*scale.inference, scale.training)}
    parts = []
    for size in MAX_MAPS_BYTES.values():
        with parts_of(size):
            parts += gpu_compilation.operator_variants(scale.shapes[:1], dtypes)
    variants = (
        *gpu_compilation.check_variants(),
        *gpu_compilation.operator_variants(scale.shapes, dtypes),
        *parts,
        *gpu_compilation.network_variants(sizes, dtypes),
    )
    return gpu_compilation.compile_kernels(variants, gpu_compilation.current_target(device))


def compile_sweep(device: str, scale: Scale) -> dict[str, int]:
    """Compile the kernels of the sweep over kernel sizes."""
    shapes = [(*scale.shapes[0][:3], k) for k in scale.sweep]
    variants = gpu_compilation.operator_variants(shapes, list(PRECISIONS.values()))
    return gpu_compilation.compile_kernels(variants, gpu_compilation.current_target(device))


def kernel_resources(device: str) -> dict:
    """Report the resources of every Triton kernel variant for this GPU."""
    return dict(variants=compile_variants([10 * major + minor for major, minor in [torch.cuda.get_device_capability(device)]]))


@with_fair_cudnn
def operator_times(shape: tuple, backward: bool, device: str, precision: str, scale: Scale) -> dict:
    """Time all calls of :func:`operator_calls` for one shape."""
    calls = operator_calls(shape, backward, device, PRECISIONS[precision])
    lacking = gpu_checks.lacking_backends(device, PRECISIONS[precision])
    if (name := 'F.conv2d, channels_last') in calls:
        try:
            calls[name]()
        except RuntimeError as error:  # cuDNN has no algorithm for it
            del calls[name]
            lacking[name] = first_line(error)
    times = interleaved(calls, device, scale.rounds, scale.budget)
    work = operator_work(shape, backward)
    ms = {name: asdict(time) for name, time in times.items()}
    return dict(shape=shape, backward=backward, precision=precision, **work, lacking=lacking, ms=ms)


@with_fair_cudnn
def graph_times(shape: Shape, device: str, precision: str, scale: Scale) -> dict:
    """Time replays of CUDA graphs beside plain calls. The difference is the overhead of the launches.

    A call processes several maps in turn, which together exceed the cache. The times are those of one map.
    """
    n, c, size, _ = shape
    count = copies_beyond_cache(n * c * size * size * PRECISIONS[precision].itemsize, device)
    calls = {}
    for name in (OURS, *gpu_checks.TRITON_BACKENDS, 'copy'):
        call = partial(_call_each, [_forward_call(shape, device, precision, name) for _ in range(count)])
        graph, _ = gpu_checks.capture(call, device)
        calls |= {name: call, f'{name}, CUDA graph': graph.replay}
    return _calls_times('channels_last, CUDA graphs beside plain calls', calls, shape, device, precision, scale, count)


def _call_each(calls: list[Callable[[], object]]) -> list[object]:
    return [call() for call in calls]


@with_fair_cudnn
def part_times(shape: Shape, device: str, precision: str, scale: Scale) -> dict:
    """Time the Triton backends with maps of means that are written in parts of several sizes (``MAX_MAPS_BYTES``).

    CUDA graphs are timed, because many small parts would measure the time of the launches.
    """
    calls = {}
    for backend in gpu_checks.TRITON_BACKENDS:
        call = _forward_call(shape, device, precision, backend)
        for name, size in MAX_MAPS_BYTES.items():
            with parts_of(size):
                graph, _ = gpu_checks.capture(call, device)
            calls[f'{backend}, {name}'] = graph.replay
    return _calls_times('channels_last, sizes of the parts', calls, shape, device, precision, scale)


@contextmanager
def parts_of(size: int) -> Iterator[None]:
    """Set the largest size of the maps of means in bytes, and restore it afterward."""
    modules = [BACKENDS[name] for name in gpu_checks.TRITON_BACKENDS]
    before = [module.MAX_MAPS_BYTES for module in modules]
    try:
        for module in modules:
            module.MAX_MAPS_BYTES = size
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.MAX_MAPS_BYTES = value


def _forward_call(shape: Shape, device: str, precision: str, backend: str) -> Callable[[], object]:
    """Prepare a call of the operator in channels_last, as the networks call it, or a 'copy' of its input."""
    n, c, size, k = shape
    grid = default_grid(k)
    x = torch.randn(n, c, size, size, device=device).to(PRECISIONS[precision], memory_format=torch.channels_last)
    if backend == 'copy':
        return lambda: x * 1.0
    w = torch.randn(c, 1, grid.weight_size, grid.weight_size, device=device, dtype=PRECISIONS[precision])
    return torch.no_grad()(partial(peripheral_conv2d, x, w, grid, backend=backend))


def _calls_times(title: str, calls: dict, shape: Shape, device: str, precision: str, scale: Scale, maps: int = 1) -> dict:
    """Time calls that process a number of maps each. The times are those of one map."""
    times = interleaved(calls, device, scale.rounds, scale.budget)
    ms = {
        name: dict(median=time.median / maps, fastest=time.fastest / maps, slowest=time.slowest / maps, rounds=time.rounds)
        for name, time in times.items()
    }
    return dict(title=title, shape=shape, precision=precision, ms=ms)


@with_fair_cudnn
def inference_times(batch: int, size: int, device: str, precision: str, scale: Scale) -> dict:
    """Time the inference of classifiers: PeLK-T, PeLK-101-T, ConvNeXt-T x 1.3, and SLaK-T."""
    images = torch.randn(batch, 3, size, size, device=device, dtype=PRECISIONS[precision])
    if _has_openmmlab(scale):
        from .model_benchmarks import classifiers

        models = classifiers()
        for name in ('PeLK-T', 'PeLK-101-T'):
            models[name].backbone.switch_to_deploy(keep_grid=True)  # eval mode would fold in every call on a GPU
    else:
        with torch.device(device):  # the initial values of large networks take seconds on a CPU
            models = {
                name: plain_networks.Classifier(plain_networks.plain_backbone(name, False, **dict(scale.network)))
                for name in (*TRAINED, SLAK)
            }
    models = {name: model.to(device, PRECISIONS[precision]).eval() for name, model in models.items()}
    calls = {name: torch.inference_mode()(partial(model, images)) for name, model in models.items()}
    times = interleaved(calls, device, scale.rounds, scale.budget)
    networks = 'mmpretrain' if _has_openmmlab(scale) else 'torch alone'
    result = {name: dict(asdict(time), images_per_second=1000 * batch / time.median) for name, time in times.items()}
    return dict(batch=batch, size=size, precision=precision, networks=networks, ms=result)


@with_fair_cudnn
def training_time(name: str, batch: int, size: int, device: str, precision: str, scale: Scale) -> dict:
    """Time the training steps of a segmentor, and measure their peak memory."""
    step = _training_step(name, batch, size, device, precision, scale)
    step()  # measures backends and tunes
    step()
    on_gpu = torch.device(device).type == 'cuda'
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    time = interleaved({name: step}, device, scale.rounds, 4 * scale.budget)[name]
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None
    head = 'UperNet' if _has_openmmlab(scale) else 'light head'
    return dict(model=name, batch=batch, size=size, precision=precision, head=head, **asdict(time), peak_mib=peak)


def largest_batches(name: str, size: int, device: str, precision: str, scale: Scale) -> dict:
    """Time training steps at batches of 2, 4, 8, and so on, up to what fits into the memory.

    The result has the reason why the next batch failed. Libraries of CUDA report a lack of memory as errors of several types.
    """
    rows, batch, stopped = [], 2, None
    while batch <= scale.largest_batch and not stopped:
        try:
            rows.append(training_time(name, batch, size, device, precision, scale))
            if torch.device(device).type == 'cuda':
                torch.cuda.empty_cache()
        except Exception as error:
            if not rows:
                raise
            stopped = f'batch {batch}: {type(error).__name__}: {first_line(error)}'
        batch *= 2
    return dict(model=name, precision=precision, size=size, batches=rows, stopped=stopped)


@with_fair_cudnn
def profile_step(name: str, batch: int, size: int, device: str, precision: str, scale: Scale) -> dict:
    """Profile a training step, and sum the times by kernel, or by operator on a CPU."""
    step = _training_step(name, batch, size, device, precision, scale)
    for _ in range(3):
        step()
    on_gpu = torch.device(device).type == 'cuda'
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
    attribute = 'self_device_time_total' if on_gpu else 'self_cpu_time_total'
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, attribute))
    rows = [dict(kernel=event.key, calls=event.count, ms=getattr(event, attribute) / 1000) for event in events]
    return dict(
        model=name, precision=precision, batch=batch, size=size, total_ms=sum(row['ms'] for row in rows), kernels=rows[:30]
    )


def run_tests(arguments: tuple[str, ...]) -> dict:
    """Run a group of tests with pytest, and return its summary. The log has the failures."""
    if lacking := [name for name in TEST_MODULES if not find_spec(name)]:
        return dict(summary=f'not run: {" and ".join(lacking)} not installed; the checks need none of them', needs=lacking)
    command = [sys.executable, '-m', 'pytest', '-q', '--maxfail=20', '-p', 'no:cacheprovider', *arguments]
    result = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True)
    print(result.stdout + result.stderr, flush=True)
    summary = (result.stdout.strip().splitlines() or ['no output'])[-1]
    if result.returncode:
        raise gpu_checks.CheckFailed(f'pytest {" ".join(arguments)}: {summary}')
    return dict(summary=summary)


def _has_openmmlab(scale: Scale) -> bool:
    return OPENMMLAB and not scale.is_small


def _training_step(name: str, batch: int, size: int, device: str, precision: str, scale: Scale) -> Callable[[], None]:
    """Prepare a training step of UperNet, or of a light head on the backbone where mmseg is not installed.

    Half-precision types run under autocast.
    """
    if _has_openmmlab(scale):
        from .model_benchmarks import segmentors, training_step

        return training_step(segmentors()[name], batch, size, device, PRECISIONS[precision])
    with torch.device(device):
        model = plain_networks.LightSegmentor(plain_networks.plain_backbone(name, True, **dict(scale.network)))
    return _light_step(model, batch, size, device, PRECISIONS[precision])


def _light_step(model: nn.Module, batch: int, size: int, device: str, dtype: torch.dtype) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(0, 150, (batch, size // 4, size // 4), device=device)

    def step() -> None:
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
