"""The native backend: all instruction sets, layouts, and sizes against float64, threads, processes, loading, and installation."""

import ctypes
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import assert_same_bits
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import box_correlate, collapse, correlate, correlate_grads, expand
from strategies import fill, halves, values

from mmpelk.ops import SharingGrid, available_backends, describe_backends, peripheral_conv2d
from mmpelk.ops.backends import native

pytestmark = pytest.mark.skipif('native' not in available_backends(), reason=describe_backends()['native'])
SETS = native.instruction_sets() if 'native' in available_backends() else ()
HALVES = [(5,), (9, 8, 4, 2, 1, 1, 1), (17, 16, 8, 4, 2, 1, 1, 1, 1), (1,) * 7, (7, 3, 11, 5), (30, 1)]
BOUND = 5e-6


@pytest.fixture(params=SETS)
def instruction_set(request, monkeypatch):
    monkeypatch.setenv(native.INSTRUCTION_SET, request.param)


def run(x, w, grid, up):
    """Return the output and the gradients of input and weight."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    output = peripheral_conv2d(x, w, grid, backend='native')
    return output.detach(), *torch.autograd.grad(output, (x, w), up)


def assert_near(actual, expected, squares=None):
    """Compare relative to the largest value. ``squares``, sums of squared terms, set the scale where terms cancel."""
    for part, reference, square in zip(actual, expected, squares or expected, strict=True):
        scale = np.abs(reference).max() if squares is None else max(np.abs(reference).max(), square.max() ** 0.5)
        assert np.abs(part.double().numpy() - reference).max() <= BOUND * scale


def laid_out(array, layout):
    """Return an (N, C, H, W) array as a tensor with the given memory layout."""
    tensor = torch.from_numpy(array)
    if layout == 'channel slice':
        return torch.cat((tensor, tensor), 1).contiguous(memory_format=torch.channels_last)[:, : tensor.shape[1]]
    if layout == 'transposed':
        return tensor.mT.contiguous().mT
    return tensor.contiguous(memory_format=torch.channels_last if layout == 'channels_last' else torch.contiguous_format)


@pytest.mark.parametrize('instruction_set', SETS)
@given(
    pixels=values(), weights=values(), gradient=values(), half=st.sampled_from(HALVES) | halves, images=st.integers(1, 2),
    channels=st.integers(1, 40), height=st.integers(1, 24), width=st.integers(1, 40), mean=st.sampled_from([0, 100]),
    layout=st.sampled_from(['contiguous', 'channels_last', 'channel slice', 'transposed']),
)  # fmt: skip
@settings(max_examples=40)
def test_output_and_gradients_match_the_loops(
    instruction_set, pixels, weights, gradient, half, images, channels, height, width, mean, layout
):
    grid = SharingGrid.from_half(half)
    x = (mean + fill(pixels, images, channels, height, width)).astype(np.float32)
    up = fill(gradient, images, channels, height, width).astype(np.float32)
    w = fill(weights, channels, grid.weight_size, grid.weight_size).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.INSTRUCTION_SET, instruction_set)
        actual = run(laid_out(x, layout), torch.from_numpy(w)[:, None], grid, laid_out(up, layout))
    x, w, up = (array.astype(np.float64) for array in (x, w, up))

    def reference(x, w, up):
        kernel = expand(w, half)
        grad_x, grad_kernel = correlate_grads(x, kernel, up)
        return correlate(x, kernel), grad_x, collapse(grad_kernel, half)[:, None]

    assert_near(actual, reference(x, w, up), reference(x**2, w**2, up**2))


@pytest.mark.parametrize('mean', [0, 100])
@pytest.mark.parametrize('height, width', [(512, 512), (40, 700)])
def test_large_maps_keep_their_accuracy(height, width, mean):
    rng = np.random.default_rng(0)
    half = [17, 16, 8, 4, 2, 1, 1, 1, 1]
    grid = SharingGrid.from_half(half)
    shape = 1, 2, height, width
    x, up = (mean + rng.normal(size=shape)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    w = rng.normal(size=(2, 17, 17)).astype(np.float32)
    w[1] /= grid.areas().numpy() ** 0.5  # as after initialization, where the center has the largest weights
    actual = run(torch.from_numpy(x), torch.from_numpy(w)[:, None], grid, torch.from_numpy(up))
    output, grad_w = box_correlate(x.astype(np.float64), w.astype(np.float64), half, up.astype(np.float64))
    grad_x, _ = box_correlate(up.astype(np.float64), w[:, ::-1, ::-1].astype(np.float64), half, up.astype(np.float64))
    assert_near(actual, (output, grad_x, grad_w[:, None]))


def test_box_correlate_matches_the_loops():
    rng = np.random.default_rng(1)
    half = [4, 2, 1, 1]
    x, up = rng.normal(size=(2, 2, 3, 9, 14))
    w = rng.normal(size=(3, 7, 7))
    output, grad_w = box_correlate(x, w, half, up)
    kernel = expand(w, half)
    np.testing.assert_allclose(output, correlate(x, kernel), atol=1e-12)
    np.testing.assert_allclose(grad_w, collapse(correlate_grads(x, kernel, up)[1], half), atol=1e-11)


GRID = SharingGrid.peripheral(51)


def example():
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 37, 60, 45), (37, 1, 13, 13), (2, 37, 60, 45)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def test_any_number_of_threads_gives_the_same_bits(instruction_set):
    x, w, up = example()
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 3, 7):
            torch.set_num_threads(number)
            results.append(run(x, w, GRID, up))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_concurrent_calls_do_not_disturb_each_other():
    """Each of three threads makes five calls. Two threads have the same input, and all results must be those of calls in sequence."""
    x, w, up = example()
    inputs = [x, x, x + 1]
    expected = [run(x, w, GRID, up) for x in inputs]
    barrier = threading.Barrier(len(inputs))

    def work(x):
        barrier.wait(timeout=60)
        return [run(x, w, GRID, up) for _ in range(5)]

    with ThreadPoolExecutor(len(inputs)) as pool:
        rounds = list(pool.map(work, inputs))
    for results, reference in zip(rounds, expected, strict=True):
        assert len(results) == 5
        for result in results:
            assert_same_bits(result, reference)


def test_a_forked_process_gives_the_same_bits():
    x, w, up = example()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = run(x, w, GRID, up)  # starts OpenMP's threads, which do not survive a fork
        with multiprocessing.get_context('fork').Pool(1) as pool:
            result = pool.apply_async(_in_child).get(timeout=60)
    finally:
        torch.set_num_threads(threads)
    assert_same_bits([torch.from_numpy(array) for array in result], expected)


def _in_child():
    x, w, up = example()
    # Autograd refuses to run in a fork of a process that has used it, so the operators are called directly.
    output = torch.ops.mmpelk.depthwise_conv2d(x, w, None, GRID.cells, GRID.cells, 0, 'native')
    grad_input = torch.ops.mmpelk.depthwise_conv2d(up, w.flip(-2, -1), None, GRID.cells, GRID.cells, 0, 'native')
    grad_weight = torch.ops.mmpelk.depthwise_conv2d_weight_grad(up, x, GRID.cells, GRID.cells, 'native')
    return [tensor.numpy() for tensor in (output, grad_input, grad_weight)]


CELLS = 5, 4, 2, 1, 1, 1, 2, 4, 5


def problem(dtype=torch.float32, channels=19):
    """Return an input, a weight, and a bias on a map of 14x45, which CELLS fit."""
    generator = torch.Generator().manual_seed(3)
    shapes = (2, channels, 14, 45), (channels, 1, 9, 9), (channels,)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def nines(*shape, dtype):
    return torch.full(shape, 9.0, dtype=dtype)


OUTPUTS = {
    'channels of channels_last': lambda n, c, h, w, d: nines(n, h, w, c + 7, dtype=d).permute(0, 3, 1, 2)[:, 3 : c + 3],
    'channels': lambda n, c, h, w, d: nines(n, c + 7, h, w, dtype=d)[:, 3 : c + 3],
    'part of the map': lambda n, c, h, w, d: nines(n, c, h + 2, w + 2, dtype=d)[..., 1:-1, 1:-1],
    'transposed': lambda n, c, h, w, d: nines(n, c, w, h, dtype=d).mT,
    'every second': lambda n, c, h, w, d: nines(2 * n, 2 * c, 2 * h, 2 * w, dtype=d)[::2, ::2, ::2, ::2],
}


@pytest.mark.parametrize('dtype', native.TYPES)
@pytest.mark.parametrize('layout', OUTPUTS)
def test_out_has_the_same_bits_and_its_surroundings_do_not_change(instruction_set, layout, dtype):
    x, w, bias = problem(dtype)
    out = OUTPUTS[layout](*x.shape, dtype)
    address = out.data_ptr()
    assert native.forward(x, w, bias, CELLS, CELLS, out=out) is out
    assert out.data_ptr() == address
    assert_same_bits([out], [native.forward(x, w, bias, CELLS, CELLS)])
    out.fill_(9)
    assert (torch.empty(0, dtype=dtype).set_(out.untyped_storage()) == 9).all()


def test_out_is_written_without_a_copy():
    x, w, _ = problem()
    x = x.contiguous(memory_format=torch.channels_last)
    out = OUTPUTS['channels of channels_last'](*x.shape, x.dtype)
    expected = native.forward(x, w, None, CELLS, CELLS)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        native.forward(x, w, None, CELLS, CELLS, out=out)
    assert not [event.key for event in profile.key_averages() if 'copy' in event.key or 'empty' in event.key]
    assert_same_bits([out], [expected])


def test_weight_grad_has_the_type_of_the_input(instruction_set):
    for dtype in native.TYPES:
        x, w, _ = problem(dtype)
        up = x.roll(1, -1)
        grad = native.weight_grad(up, x, CELLS, CELLS)
        assert grad.dtype == dtype and grad.shape == w.shape
        assert_same_bits([grad], [native.weight_grad(up.float(), x.float(), CELLS, CELLS).to(dtype)])


def test_an_empty_batch(instruction_set):
    x, w, bias = problem()
    assert native.forward(x[:0], w, bias, CELLS, CELLS).shape == (0, *x.shape[1:])
    assert_same_bits([native.weight_grad(x[:0], x[:0], CELLS, CELLS)], [torch.zeros(w.shape)])


@pytest.mark.parametrize('cells', [(), (2,), (1, 1), (1, 1, 3), (3, -1, 3), (0,), (29,), (2**32 + 1,)])
def test_invalid_cells(cells):
    x, w, _ = problem()
    for rows, columns in ((cells, CELLS), (CELLS, cells)):
        if cells == (29,) and columns == cells:
            continue  # 45 columns are enough for it
        with pytest.raises(
            ValueError, match=r'symmetric cells of an odd sum of at most 2 H - 1 and 2 W - 1, got the shape \(2, 19'
        ):
            native.forward(x, w, None, rows, columns)
        with pytest.raises(ValueError, match='got the shape'):
            native.weight_grad(x, x, rows, columns)


def test_invalid_maps_and_instruction_sets(monkeypatch):
    x, w, _ = problem()
    for shape in ((2, 0, 14, 45), (2, 19, 0, 45), (2, 19, 14, 0)):
        with pytest.raises(ValueError, match='needs a nonempty map'):
            native.forward(torch.ones(shape), w, None, (1,), (1,))
    monkeypatch.setenv(native.INSTRUCTION_SET, 'avx10')
    with pytest.raises(RuntimeError, match="no instruction set 'avx10'"):
        native.forward(x, w, None, CELLS, CELLS)
    with pytest.raises(RuntimeError, match="no instruction set 'avx10'"):
        native.weight_grad(x, x, CELLS, CELLS)


OUT_OF_MEMORY = """
import resource, torch
from mmpelk.ops.backends import native
torch.set_num_threads(2)
x, weight = torch.ones(1, 1, 2**14, 128), torch.ones(1, 1, 2**15 - 1, 1)
rows = (1,) * (2**15 - 1)
native.forward(x[..., :9, :], weight[..., :9, :], None, rows[:9], (1,))  # starts the threads
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, -1))
for call in (lambda: native.forward(x, weight, None, rows, (1,)), lambda: native.weight_grad(x, x, rows, (1,))):
    try:
        call()
    except MemoryError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
print(native.forward(x[..., :9, :], weight[..., :9, :], None, rows[:9], (1,)).sum().item())
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_out_of_memory():
    ran = run_python(OUT_OF_MEMORY)
    message = 'the native backend could not allocate its temporary memory'
    ones = sum(min(9, row + 5) - max(0, row - 4) for row in range(9)) * 128
    assert ran.splitlines() == [message, message, str(float(ones))]


def run_python(program, *args):
    ran = subprocess.run(
        [sys.executable, '-c', program, *map(str, args)],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


LIBRARY = native._load().path if 'native' in available_backends() else None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder that the backend loads its library from."""
    monkeypatch.setattr(native, 'FOLDER', tmp_path)
    native._load.cache_clear()
    yield tmp_path
    native._load.cache_clear()


def check_unusable(reason):
    """The reason is one line, and 'auto' uses another backend."""
    native._load.cache_clear()
    described = describe_backends()['native']
    assert described.startswith('unavailable: ') and reason in described and len(described.splitlines()) == 1
    x, w, _ = example()
    assert peripheral_conv2d(x, w, GRID).shape == x.shape
    with pytest.raises(ValueError, match="'native' cannot run on cpu"):
        peripheral_conv2d(x, w, GRID, backend='native')


@pytest.mark.skipif(sys.platform != 'linux', reason='loads ELF files')
def test_libraries_that_cannot_be_loaded(folder):
    content = LIBRARY.read_bytes()
    path = folder / LIBRARY.name
    for size in (0, 10, 64, 1000, len(content) // 2, len(content) * 9 // 10, len(content) - 1):
        path.write_bytes(content[:size])
        check_unusable(f'contains no usable library ({path.name}: ')
    path.write_text('<html>not found</html>' * 10)
    check_unusable('invalid ELF header')
    machine = content[18]
    path.write_bytes(content[:18] + bytes([machine ^ 1]) + content[19:])
    check_unusable(f'{path.name}: ')
    path.unlink()
    check_unusable('contains no compiled library')


def test_a_library_of_another_version(folder, monkeypatch):
    shutil.copy(LIBRARY, folder)
    monkeypatch.setattr(native, 'INTERFACE_VERSION', 99)
    check_unusable(
        f'{LIBRARY.name}: its interface has version {ctypes.CDLL(str(LIBRARY)).mmpelk_version()}, but this mmpelk needs 99'
    )


def test_a_library_without_a_version(folder):
    (folder / LIBRARY.name).write_bytes(LIBRARY.read_bytes().replace(b'mmpelk_version', b'another_symbol'))
    check_unusable('its interface has version None')


def test_several_libraries(folder):
    """This interpreter's file comes first. Unusable files, such as stale ones, are skipped."""
    stale, other = folder / LIBRARY.name, folder / '_native.cpython-39-x86_64-linux-gnu.so'
    shutil.copy(LIBRARY, other)
    assert native._load().path == other
    x, w, _ = example()
    output = peripheral_conv2d(x, w, GRID, backend='native')
    stale.write_bytes(LIBRARY.read_bytes()[:5000])
    native._load.cache_clear()
    assert describe_backends()['native'].endswith(f', {other.name})')
    assert_same_bits([peripheral_conv2d(x, w, GRID, backend='native')], [output])
    shutil.copy(LIBRARY, stale)
    shutil.copy(LIBRARY, folder / '_native.abi3.so')
    for expected in (stale, folder / '_native.abi3.so', other):
        native._load.cache_clear()
        assert native._load().path == expected
        expected.unlink()


def test_several_unusable_libraries(folder):
    for name in (LIBRARY.name, '_native.abi3.so'):
        (folder / name).write_text('')
    check_unusable(f'({LIBRARY.name}: file too short; _native.abi3.so: file too short)')


def test_an_instruction_set_that_the_machine_does_not_have(monkeypatch):
    x, w, _ = example()
    peripheral_conv2d(x, w, GRID)  # 'auto' must not use this choice below
    monkeypatch.setenv(native.INSTRUCTION_SET, 'avx10')
    assert 'native' not in available_backends()
    assert "variable MMPELK_INSTRUCTION_SET is 'avx10', but this machine has ('" in describe_backends()['native']
    with pytest.raises(ValueError, match="'native' cannot run on cpu.*avx10.*available: .'dense', 'fft'"):
        peripheral_conv2d(x, w, GRID, backend='native')
    assert peripheral_conv2d(x, w, GRID).shape == x.shape


def test_describe_backends_names_the_instruction_set(instruction_set):
    library = native._load().path.name
    assert library.startswith('_native.')
    assert describe_backends()['native'] == f'available ({os.environ[native.INSTRUCTION_SET]}, {library})'


def test_float64_is_refused_instead_of_rounded():
    x, w, _ = example()
    with pytest.raises(ValueError, match='would round torch.float64'):
        peripheral_conv2d(x.double(), w.double(), GRID, backend='native')


def build(tmp_path, **env):
    """Build the package from a copy of its sources, and return the folder of the result."""
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('setup.py', 'README.md', 'MANIFEST.in'):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / 'mmpelk', source / 'mmpelk', ignore=shutil.ignore_patterns('_native.*', '__pycache__'))
    command = [sys.executable, 'setup.py', '-q', 'build', '-b', str(tmp_path / 'build')]
    built = subprocess.run(command, cwd=source, env={**os.environ, **env}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next((tmp_path / 'build').glob('lib*'))


def test_installation_without_a_compiler(tmp_path):
    lib = build(tmp_path, CC='no-compiler', CXX='no-compiler')
    program = """
import torch
from mmpelk.ops import SharingGrid, describe_backends, peripheral_conv2d
print(describe_backends()['native'])
print(tuple(peripheral_conv2d(torch.ones(1, 2, 9, 9), torch.ones(2, 1, 13, 13), SharingGrid.peripheral(51)).shape))
"""
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    ran = subprocess.run([sys.executable, '-c', program], cwd=lib, env=env, capture_output=True, text=True)
    assert 'contains no compiled library; reinstall mmpelk where pip finds g++' in ran.stdout, ran.stderr
    assert '(1, 2, 9, 9)' in ran.stdout, ran.stderr


def test_a_compiler_without_openmp(tmp_path, monkeypatch):
    """The library starts its own threads, which gives the same bits, also in a forked process."""
    compiler = tmp_path / 'compiler'
    compiler.write_text('#!/bin/sh\ncase " $* " in *" -fopenmp "*) exit 1;; esac\nexec g++ "$@"\n')
    compiler.chmod(0o755)
    x, w, up = example()
    expected = run(x, w, GRID, up)
    lib = build(tmp_path, CC=str(compiler), CXX=str(compiler))
    monkeypatch.setattr(native, 'FOLDER', lib / 'mmpelk/ops/backends/native')
    native._load.cache_clear()
    threads = torch.get_num_threads()
    try:
        assert b'GOMP_' in LIBRARY.read_bytes() and b'GOMP_' not in native._load().path.read_bytes()
        for number in (1, 2, 7):
            torch.set_num_threads(number)
            assert_same_bits(run(x, w, GRID, up), expected)
        with multiprocessing.get_context('fork').Pool(1) as pool:
            result = pool.apply_async(_in_child).get(timeout=60)
        assert_same_bits([torch.from_numpy(array) for array in result], expected)
    finally:
        torch.set_num_threads(threads)
        native._load.cache_clear()


@pytest.mark.skipif(shutil.which('g++') is None, reason='compiles a program')
def test_the_cases_of_the_sanitizers():
    """`make sanitize` runs this program under the sanitizers. Here it also runs the code for AVX-512 on machines without it."""
    program = Path(__file__).parent / 'native/sanitize.py'
    ran = subprocess.run([sys.executable, program, 'plain'], capture_output=True, text=True)
    assert ran.returncode == 0 and 'passed with the instruction sets avx512 avx2 portable' in ran.stdout, ran.stdout + ran.stderr
