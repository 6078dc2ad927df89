"""The native backend: all instruction sets, layouts, and sizes against float64, threads, processes, and installation."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

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
    output = torch.ops.mmpelk.depthwise_conv2d(x, w, None, GRID.cells, GRID.cells, 'native')
    grad_input = torch.ops.mmpelk.depthwise_conv2d(up, w.flip(-2, -1), None, GRID.cells, GRID.cells, 'native')
    grad_weight = torch.ops.mmpelk.depthwise_conv2d_weight_grad(up, x, GRID.cells, GRID.cells, 'native')
    return [tensor.numpy() for tensor in (output, grad_input, grad_weight)]


def test_an_instruction_set_that_the_machine_does_not_have(monkeypatch):
    monkeypatch.setenv(native.INSTRUCTION_SET, 'avx10')
    assert 'native' not in available_backends()
    assert "variable MMPELK_INSTRUCTION_SET is 'avx10', but this machine has ('" in describe_backends()['native']
    x, w, _ = example()
    with pytest.raises(ValueError, match="'native' cannot run on cpu.*avx10.*available: .'dense', 'fft'"):
        peripheral_conv2d(x, w, GRID, backend='native')
    assert peripheral_conv2d(x, w, GRID).shape == x.shape


def test_describe_backends_names_the_instruction_set(instruction_set):
    assert describe_backends()['native'] == f'available ({os.environ[native.INSTRUCTION_SET]})'


def test_float64_is_refused_instead_of_rounded():
    x, w, _ = example()
    with pytest.raises(ValueError, match='would round torch.float64'):
        peripheral_conv2d(x.double(), w.double(), GRID, backend='native')


def test_installation_without_a_compiler(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('setup.py', 'README.md', 'MANIFEST.in'):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / 'mmpelk', source / 'mmpelk', ignore=shutil.ignore_patterns('_native.*', '__pycache__'))
    env = {**os.environ, 'CC': 'no-compiler', 'CXX': 'no-compiler'}
    built = subprocess.run(
        [sys.executable, 'setup.py', '-q', 'build', '-b', str(tmp_path / 'build')],
        cwd=source,
        env=env,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    program = """
import torch
from mmpelk.ops import SharingGrid, describe_backends, peripheral_conv2d
print(describe_backends()['native'])
print(tuple(peripheral_conv2d(torch.ones(1, 2, 9, 9), torch.ones(2, 1, 13, 13), SharingGrid.peripheral(51)).shape))
"""
    lib = next((tmp_path / 'build').glob('lib*'))
    ran = subprocess.run([sys.executable, '-c', program], cwd=lib, capture_output=True, text=True)
    assert 'contains no compiled library; reinstall mmpelk where pip finds g++' in ran.stdout, ran.stderr
    assert '(1, 2, 9, 9)' in ran.stdout, ran.stderr
