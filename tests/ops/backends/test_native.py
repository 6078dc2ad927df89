"""The native backend: every instruction set, layout and size against float64, and what surrounds it."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import box_correlate, collapse, correlate, correlate_grads, expand

from mmpelk.ops import SharingGrid, available_backends, describe_backends, peripheral_conv2d
from mmpelk.ops.backends import native

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif('native' not in available_backends(), reason=describe_backends()['native'])
SETS = native.instruction_sets() if 'native' in available_backends() else ()
HALVES = [[1], [5], [2, 1], [9, 8, 4, 2, 1, 1, 1], [17, 16, 8, 4, 2, 1, 1, 1, 1], [1] * 7, [7, 3, 11, 5], [30, 1]]
BOUND = 5e-6


def run(x, w, grid, up=None):
    """Output, and the gradients where ``up`` is given."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    output = peripheral_conv2d(x, w, grid, backend='native')
    return (output.detach(), *torch.autograd.grad(output, (x, w), up)) if up is not None else (output.detach(),)


def assert_near(actual, expected, squares=None):
    """Relative to the largest value; ``squares``, sums of squared terms, give the scale where terms happen to cancel."""
    for part, reference, square in zip(actual, expected, squares or expected, strict=True):
        scale = np.abs(reference).max() if squares is None else max(np.abs(reference).max(), square.max() ** 0.5)
        assert np.abs(part.double().numpy() - reference).max() < BOUND * scale


@pytest.mark.parametrize('instruction_set', SETS)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(HALVES), st.integers(1, 40), st.integers(1, 24), st.integers(1, 40),
    st.sampled_from(['contiguous', 'channels_last', 'part', 'turned']), st.sampled_from([0, 100]),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_against_loops(instruction_set, seed, half, channels, height, width, layout, mean):
    rng = np.random.default_rng(seed)
    grid = SharingGrid.from_half(half)
    shape = rng.integers(1, 3), channels, height, width
    x, up = (mean + rng.normal(size=shape)).astype(np.float32), rng.normal(size=shape).astype(np.float32)
    w = rng.normal(size=(channels, grid.weight_size, grid.weight_size)).astype(np.float32)

    def laid_out(array):
        tensor = torch.from_numpy(array)
        if layout == 'part':
            return torch.cat((tensor, tensor), 1).contiguous(memory_format=torch.channels_last)[:, :channels]
        if layout == 'turned':
            return tensor.mT.contiguous().mT
        return tensor.contiguous(memory_format=getattr(torch, layout if layout == 'channels_last' else 'contiguous_format'))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.INSTRUCTION_SET, instruction_set)
        actual = run(laid_out(x), torch.from_numpy(w)[:, None], grid, laid_out(up))
    x, w, up = (array.astype(np.float64) for array in (x, w, up))

    def reference(x, w, up):
        kernel = expand(w, half)
        grad_x, grad_kernel = correlate_grads(x, kernel, up)
        return correlate(x, kernel), grad_x, collapse(grad_kernel, half)[:, None]

    assert_near(actual, reference(x, w, up), reference(x**2, w**2, up**2))


@pytest.mark.parametrize('mean', [0, 100])
@pytest.mark.parametrize('height, width', [(512, 512), (40, 700)])
def test_large_maps_keep_their_digits(height, width, mean):
    rng = np.random.default_rng(0)
    half = [17, 16, 8, 4, 2, 1, 1, 1, 1]
    grid = SharingGrid.from_half(half)
    x, up = (
        a.astype(np.float32) for a in (mean + rng.normal(size=(1, 2, height, width)), rng.normal(size=(1, 2, height, width)))
    )
    w = rng.normal(size=(2, 17, 17)).astype(np.float32)
    w[1] /= grid.areas().numpy() ** 0.5  # as after initialisation, where the centre weighs most
    actual = run(torch.from_numpy(x), torch.from_numpy(w)[:, None], grid, torch.from_numpy(up))
    output, grad_w = box_correlate(x.astype(np.float64), w.astype(np.float64), half, up.astype(np.float64))
    grad_x, _ = box_correlate(up.astype(np.float64), w[:, ::-1, ::-1].astype(np.float64), half, up.astype(np.float64))
    assert_near(actual, (output, grad_x, grad_w[:, None]))


def test_the_reference_of_boxes():
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


def test_any_number_of_threads_gives_the_same_numbers():
    x, w, up = example()
    many = run(x, w, GRID, up)
    threads = torch.get_num_threads()
    try:
        for number in (1, 3, 7):
            torch.set_num_threads(number)
            for one, other in zip(run(x, w, GRID, up), many, strict=True):
                assert torch.equal(one, other)
    finally:
        torch.set_num_threads(threads)


def test_threads_that_call_at_once():
    x, w, up = example()
    expected, results = run(x, w, GRID, up), {}

    def work(name):
        for _ in range(5):
            results[name] = run(x + name, w, GRID, up) if name else run(x, w, GRID, up)

    workers = [threading.Thread(target=work, args=(name,)) for name in (0, 0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(one, other) for one, other in zip(results[0], expected, strict=True))
    assert not torch.equal(results[1][0], expected[0])


def test_after_a_fork():
    x, w, up = example()
    expected = run(x, w, GRID, up)  # OpenMP's threads are up
    with multiprocessing.get_context('fork').Pool(1) as pool:
        result = pool.apply_async(_in_child).get(timeout=60)
    assert all(np.array_equal(one, other.numpy()) for one, other in zip(result, expected, strict=True))


def _in_child():
    x, w, up = example()
    # Autograd's engine refuses a forked process that has used it; the operators themselves must work.
    output = torch.ops.mmpelk.depthwise_conv2d(x, w, None, GRID.cells, GRID.cells, 'native')
    grads = torch.ops.mmpelk.depthwise_conv2d_backward(up, x, w, GRID.cells, GRID.cells, 'native', True, True)
    return [tensor.numpy() for tensor in (output, *grads)]


def test_an_instruction_set_that_the_machine_lacks(monkeypatch):
    monkeypatch.setenv(native.INSTRUCTION_SET, 'avx10')
    assert 'native' not in available_backends()
    assert "MMPELK_INSTRUCTION_SET='avx10'; this machine has ('" in describe_backends()['native']
    x, w, _ = example()
    with pytest.raises(ValueError, match="'native' cannot run on cpu.*avx10.*available: .'dense', 'fft'"):
        peripheral_conv2d(x, w, GRID, backend='native')
    assert peripheral_conv2d(x, w, GRID).shape == x.shape


def test_no_digits_are_lost_in_silence():
    x, w, _ = example()
    with pytest.raises(ValueError, match='would round torch.float64'):
        peripheral_conv2d(x.double(), w.double(), GRID, backend='native')


def test_an_install_without_a_compiler(tmp_path):
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
    assert 'holds no compiled library; install mmpelk again where pip finds g++' in ran.stdout
    assert '(1, 2, 9, 9)' in ran.stdout, ran.stderr
