"""The largest batches, and the memory layout of the timed calls. tests/tools/test_gpu_tool.py runs all measurements."""

import pytest
import torch

from mmpelk.analysis import gpu_measurements


def test_batches_that_fit_are_kept(monkeypatch):
    """CUDA's libraries report a lack of memory as a RuntimeError of their own."""
    largest = 9

    def training_time(name, batch, *args):
        if batch > largest:
            raise RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nmore')
        return dict(batch=batch)

    def measure():
        result = gpu_measurements.largest_batches('PeLK-T', 64, 'cpu', 'float32', gpu_measurements.SMALL)
        return [row['batch'] for row in result['batches']], result['stopped']

    monkeypatch.setattr(gpu_measurements, 'training_time', training_time)
    assert measure() == ([2, 4], None)
    largest = 2
    assert measure() == ([2], 'batch 4: RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED')
    largest = 0
    with pytest.raises(RuntimeError):
        measure()


def test_graphs_and_parts_are_timed_in_the_layout_of_the_networks():
    output = gpu_measurements._forward_call((1, 3, 9, 13), 'cpu', 'bfloat16', 'fft')()
    assert output.dtype == torch.bfloat16 and output.is_contiguous(memory_format=torch.channels_last)
