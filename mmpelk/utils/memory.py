"""Measure how much memory is free, and how much a computation takes."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch

# The number of free bytes that is assumed on systems without Linux's /proc.
ASSUMED_FREE = 2**32


def free_memory(device: torch.device) -> int:
    """Return the number of bytes that a process can still take on a device. Control groups may allow less."""
    if device.type == 'cuda':
        return torch.cuda.mem_get_info(device)[0]
    return from_proc('/proc/meminfo', 'MemAvailable') or ASSUMED_FREE


@contextlib.contextmanager
def measured_peak(device: torch.device) -> Iterator[list[int]]:
    """Measure the peak memory of the context in bytes, beyond the memory in use at its start.

    Yields:
        A list to which the number is appended at the end of the context. On the CPU it is the memory of the process, or 0 without Linux's
        ``/proc``.
    """
    result: list[int] = []
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        start = torch.cuda.memory_allocated(device)
        yield result
        result.append(torch.cuda.max_memory_allocated(device) - start)
        return
    with contextlib.suppress(OSError, AttributeError, TypeError):  # TypeError on Windows
        ctypes.CDLL(None).malloc_trim(0)  # otherwise glibc reuses freed memory, which the peak does not show
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')  # the peak becomes the current size
    start = from_proc('/proc/self/status', 'VmHWM')
    yield result
    result.append(from_proc('/proc/self/status', 'VmHWM') - start)


def from_proc(path: str, name: str) -> int:
    """Return a size from a file in ``/proc`` in bytes, or 0 if the file or the entry does not exist."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(f'{name}:'):
                return 1024 * int(line.split()[1])
    return 0
