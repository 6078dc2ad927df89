"""Free memory, and the memory that a computation takes."""

from pathlib import Path

import pytest
import torch

from mmpelk.utils.memory import free_memory, measured_peak

CPU = torch.device('cpu')
pytestmark = pytest.mark.skipif(not Path('/proc/self/clear_refs').exists(), reason='needs /proc')


def test_the_peak_is_what_the_context_takes_at_most():
    for size in (0, 2**27, 2**26):
        with measured_peak(CPU) as peak:
            torch.ones(size, dtype=torch.uint8)
        assert size - 2**20 < peak[0] < size + 2**24


def test_the_peak_shows_memory_that_was_freed_before():
    large = torch.ones(3 * 2**23, dtype=torch.uint8)  # freeing it makes malloc take pieces of up to this size from its heap
    del large
    pieces = [torch.ones(2**20, dtype=torch.uint8) for _ in range(400)]
    del pieces[:-1]  # malloc keeps these pages below the last piece
    with measured_peak(CPU) as peak:
        torch.ones(2**27, dtype=torch.uint8)
    assert 2**27 - 2**20 < peak[0] < 2**27 + 2**24


def test_free_memory_is_a_part_of_all_memory():
    total = int(Path('/proc/meminfo').read_text().split()[1]) * 1024
    assert 2**20 < free_memory(CPU) < total
