"""The resources of the compiled Triton kernels, and how the counts of their work are made."""

import json
import os
import subprocess
import sys
from itertools import product

import pytest
import torch
from conftest import ROOT

pytest.importorskip('triton', reason='Triton is not installed')

from mmpelk.analysis.gpu_bounds import GPUS, bound_lines, product_work, taps_work
from mmpelk.analysis.triton_resources import KERNELS, compile_variants
from mmpelk.utils.errors import InputError

PRODUCTS = ('correlate', 'weight_grad')
# taps takes ten times as long to compile as the others. For sm_90, only the variant that needs the most registers is compiled.
# bfloat16 and the other sizes are left to the command: tools/triton_report.py compiles all variants.
SCRIPT = """
import json
import torch
from mmpelk.analysis.triton_resources import KERNELS, compile_variants
from mmpelk.ops.backends.triton import taps

others = [name for name in KERNELS if name != 'taps']
rows = compile_variants([80, 90], [torch.float16, torch.float32], others)
rows += compile_variants([80], [torch.float32], ['taps'])
taps.BLOCKS = taps.BLOCKS[:1]
rows += compile_variants([90], [torch.float32], ['taps'], kernel_size=101)
print(json.dumps(rows))
"""


def test_no_variant_spills(tmp_path):
    """Compiled to machine code for two generations, the kernels keep everything in registers. Products use tensor cores and
    asynchronous copies, and fit into the shared memory of a program."""
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'TRITON_CACHE_DIR': str(tmp_path), 'TRITON_INTERPRET': '0'}
    result = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = json.loads(result.stdout.splitlines()[-1])
    assert {(row['kernel'], row['capability']) for row in rows} == set(product(KERNELS, (80, 90)))
    for row in rows:
        assert row['stack'] == 0, row
        if row['kernel'] in PRODUCTS:
            assert row['mma'] and row['cp_async'] and row['shared'] <= 100 * 1024, row


def test_interpreted_kernels_are_not_compiled(monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    with pytest.raises(InputError, match='unset it'):
        compile_variants()


def test_counts_by_hand():
    """On 16x16 positions, K = 5 has 5 rows of cells of 1 tap each, and one block has all columns."""
    shape, outputs = (2, 16, 16, 5), 2 * 16 * 16 * 16
    work = product_work(shape, torch.bfloat16)
    assert work.products == outputs * 5 * 16 and product_work(shape, torch.float32).products == 3 * outputs * 5 * 16
    assert work.memory == 2 * outputs * 2
    factors = 16 * 1 * 5 * 16 * 16  # one block of 128 rows for each channel
    assert work.cache == 2 * (outputs + outputs * 5 + factors)
    assert work.launches == 3  # the factors, the means, and the products
    work = taps_work(shape, torch.float32)
    loads = outputs * 5 * 20 / 16
    assert work.fused == outputs * 5 * 6 and work.slots == work.fused + 4 * loads and work.cache == 4 * (outputs + loads)
    bounds = work.bounds(GPUS[1], 4)
    assert bounds['memory'] == pytest.approx(1e6 * 8 * outputs / 3.35e12) and bounds['products'] == 0
    assert len(bound_lines([shape])) == 2 + 4
    large = product_work((16, 46, 128, 51), torch.float32)
    assert large.launches == 1 + 2 * 8  # 6 maps of 16 x (128 + 8) x 128 numbers: 6 of 46 channels at once


def test_the_page_shows_the_bounds():
    page = (ROOT / 'docs/benchmarks/gpu.md').read_text()
    assert '\n'.join(bound_lines()) in page
