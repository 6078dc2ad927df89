"""The kernels that tools/gpu.py compiles before it measures. Triton compiles without a GPU, but not where it interprets kernels, so
the tests run in processes of their own."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip('triton', minversion='3.6', reason='there is no Triton, or one that compiles kernels in another way')

KERNELS = {'box_means', 'correlate', 'spread_taps', 'taps', 'weight_grad'}
# Compiles the kernels of a shape, and then compiles what real tensors of this shape would launch.
COMPILE = """
import json
import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction
from mmpelk.analysis import gpu_compilation
from mmpelk.analysis.gpu_checks import CheckFailed
from mmpelk.analysis.operator_benchmark import default_grid
from mmpelk.ops.backends import BACKENDS
from mmpelk.ops.operator import compute_conv, compute_weight_grad

def launch(kernel, *arguments, warmup, **constants):
    return run(kernel, *arguments, warmup=True, **constants)

if __name__ == '__main__':
    target, found, run = GPUTarget('cuda', 90, 32), [], JITFunction.run
    for name in ('triton', 'taps'):
        BACKENDS[name].MAX_MAPS_BYTES = 1  # the parts are single channels or images, which start at unaligned addresses
    variants = gpu_compilation.operator_variants([(2, 3, 6, 13)], [torch.float16])
    compiled = gpu_compilation.compile_kernels(variants, target)
    gpu_compilation._compile_only_for(target)
    knobs.compilation.listener = lambda *, src, cache_hit, **others: found.append((src.name, cache_hit))
    JITFunction.run = launch
    BACKENDS['triton']._precision = lambda device: 'tf32x3'
    grid, x = default_grid(13), torch.randn(2, 3, 6, 6).half()
    w = torch.randn(3, 1, grid.weight_size, grid.weight_size).half()
    for name in ('triton', 'taps'):
        BACKENDS[name].unavailable = lambda device, dtype: None
        compute_conv(x, w, None, grid.cells, grid.cells, 0, name)
        compute_weight_grad(x, x, grid.cells, grid.cells, name)
    try:
        gpu_compilation.compile_kernels([variants[0]._replace(constants=()), variants[1]], target)
        error = None
    except CheckFailed as failed:
        error = str(failed)
    print(json.dumps([compiled, found, error]))
"""
# Records what the items of the session launch on CPU tensors, and whether the session compiles it before.
RECORD = """
import json
from dataclasses import replace
from types import SimpleNamespace
import torch
from mmpelk.analysis import gpu_checks, gpu_compilation, gpu_measurements
from mmpelk.ops.backends import BACKENDS

gpu_checks.capture = lambda call, device: (SimpleNamespace(replay=lambda: None), call())
gpu_measurements.MAX_MAPS_BYTES = {'single channels or images': 1}
scale = replace(gpu_measurements.SMALL, network=(('depths', (1, 1, 1, 1)),))  # networks of the full width
BACKENDS['triton']._precision = lambda device: 'tf32x3'
gpu_compilation.current_target = lambda device: None
gpu_compilation.compile_kernels = lambda variants, target: set(variants)
most, sweep = gpu_measurements.compile_most('cuda', scale), gpu_measurements.compile_sweep('cuda', scale)
for name, compiled, item in (
    ('operator', most, lambda: gpu_measurements.operator_times(scale.shapes[0], True, 'cpu', 'bfloat16', scale)),
    ('parts', most, lambda: gpu_measurements.part_times(scale.shapes[0], 'cpu', 'bfloat16', scale)),
    ('inference', most, lambda: gpu_measurements.inference_times(2, 64, 'cpu', 'float32', scale)),
    ('training, PeLK', most, lambda: gpu_measurements.training_time('PeLK-101-T', 2, 64, 'cpu', 'bfloat16', scale)),
    ('training, SLaK', most, lambda: gpu_measurements.training_time('SLaK-T', 2, 64, 'cpu', 'bfloat16', scale)),
    ('cases', most, lambda: gpu_checks.check_against_float64('cpu', 'fft', torch.bfloat16, gpu_checks.CASES[2:])),
    ('layouts', most, lambda: gpu_checks.check_layouts_and_bits('cpu', 'fft', torch.float16, False)),
    ('derivatives', most, lambda: gpu_checks.check_derivatives('cpu', 'fft', False)),
    ('sweep', sweep, lambda: gpu_measurements.operator_times((1, 3, 9, 7), True, 'cpu', 'float16', scale)),
):
    with gpu_compilation.recorded_variants() as launched:
        item()
    found = {}
    for variant in launched:
        found.setdefault(variant.name, []).append(variant in compiled)
    print(json.dumps([name, found]))
"""
# Records the blocks of 'taps' for shapes with several strides.
BLOCKS = """
import json
import torch
from mmpelk.analysis import gpu_compilation
from mmpelk.ops.backends.triton import taps

found = []
for variant in gpu_compilation.operator_variants([(1, 3, 40, 13), (1, 16, 40, 13)], [torch.float32]):
    constants = dict(variant.constants)
    if variant.name == 'taps':
        found.append([constants[name] for name in ('ROWS', 'CHANNELS', 'COLUMNS', 'num_warps')])
print(json.dumps([found, taps.blocks(40)]))
"""


def run(script, folder):
    """Run a script as a file, which the processes that it starts can import, and return the values that it printed."""
    (folder / 'script.py').write_text(script)
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'TRITON_CACHE_DIR': str(folder / 'cache'), 'TRITON_INTERPRET': '0'}
    result = subprocess.run([sys.executable, folder / 'script.py'], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in result.stdout.splitlines() if line.startswith('[')], result.stdout


def test_a_launch_finds_what_was_compiled_before(tmp_path):
    """Triton finds each kernel that real tensors launch in its cache on disk. One that does not compile is named."""
    ((compiled, found, error),), output = run(COMPILE, tmp_path)
    assert {name for name, _ in found} == KERNELS and all(hit for _, hit in found), found
    assert f'{compiled["kernels"]} of {compiled["kernels"]} kernels compiled, about 0 s left' in output
    assert error.startswith('1 of 2 kernels do not compile; the first one: ')


def test_what_the_items_launch_is_compiled_before(tmp_path):
    items, _ = run(RECORD, tmp_path)
    for name, found in items:
        assert set(found) == KERNELS - ({'weight_grad'} if name in ('parts', 'inference') else set()), name
        for kernel, compiled in found.items():
            assert all(compiled), (name, kernel)


def test_taps_is_compiled_once_for_each_grid_and_block(tmp_path):
    """Neither the channels nor the memory layout make another kernel, and no block is left out."""
    ((found, blocks),), _ = run(BLOCKS, tmp_path)
    assert sorted(found) == sorted(blocks) and len(blocks) > 1
