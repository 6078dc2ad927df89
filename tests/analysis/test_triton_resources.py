"""The resources of the compiled Triton kernels."""

import json
import os
import subprocess
import sys
from itertools import product

import pytest
from conftest import ROOT

pytest.importorskip('triton', reason='Triton is not installed')

from mmpelk.analysis.triton_resources import KERNELS, compile_variants
from mmpelk.utils.errors import InputError

PRODUCTS = ('correlate', 'weight_grad')
# taps takes ten times as long to compile as the others, so only the block that needs the most registers is compiled, and for sm_90
# with the kernel size that needs the most. The others and bfloat16 are left to the command: tools/triton_report.py compiles all.
SCRIPT = """
import json
import torch
from mmpelk.analysis.triton_resources import KERNELS, compile_variants
from mmpelk.ops.backends.triton import taps

others = [name for name in KERNELS if name != 'taps']
taps.BLOCKS = taps.BLOCKS[:1]
rows = compile_variants([80, 90], [torch.float16, torch.float32], others)
rows += compile_variants([80], [torch.float32], ['taps'])
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
