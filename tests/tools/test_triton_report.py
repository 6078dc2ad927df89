"""What tools/triton_report.py prints. tests/analysis/test_triton_resources.py compiles kernels."""

from functools import partial

import pytest

from mmpelk.analysis import triton_resources
from mmpelk.analysis.gpu_bounds import bound_lines


@pytest.fixture
def report(run_main):
    return partial(run_main, 'triton_report.py')


@pytest.fixture
def compiled(monkeypatch):
    """Variants that are not compiled, and the arguments with which the tool asks for them."""
    block = dict(kernel='taps', dtype='fp32', block=[8, 16], shared=2048, cp_async=True, mma=False)
    rows = [dict(block, capability=capability, registers=100, stack=0) for capability in (80, 90)]
    asked = []

    def compile_variants(capabilities, kernel_size):
        asked.append((capabilities, kernel_size))
        return rows

    monkeypatch.setattr(triton_resources, 'compile_variants', compile_variants)
    return rows, asked


def test_variants(report, compiled):
    rows, asked = compiled
    printed = report('--capabilities', 80, 90, '--kernel-size', 13)
    assert asked == [([80, 90], 13)]
    assert printed.splitlines()[2:] == [
        f'| taps | sm_{capability} | fp32 | [8, 16] | 100 | 0 | 2 | True | False |' for capability in (80, 90)
    ]
    rows[1]['stack'] = 8
    with pytest.raises(SystemExit, match='1 of 2 variants spill registers to memory'):
        report()


def test_bounds(report, compiled):
    assert report('--bounds').splitlines() == bound_lines() and not compiled[1]
