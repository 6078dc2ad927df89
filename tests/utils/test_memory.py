"""How much memory is free, and how much a computation takes."""

from pathlib import Path

import pytest
import torch

from mmpelk.utils.memory import free_memory, measured_peak

CPU = torch.device('cpu')
pytestmark = pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs /proc')


def test_the_peak_is_what_the_context_takes_at_most():
    for size in (0, 2**27, 2**26):  # malloc takes pieces of these sizes from the system
        with measured_peak(CPU) as peak:
            torch.ones(size, dtype=torch.uint8)
        assert size - 2**20 < peak[0] < size + 2**24


def test_free_memory_is_a_part_of_all_memory():
    total = int(Path('/proc/meminfo').read_text().split()[1]) * 1024
    assert 2**20 < free_memory(CPU) < total
