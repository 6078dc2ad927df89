"""The FFT backend: transform lengths, chunks, and memory. test_functional.py compares its values with the loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpelk.ops import depthwise_conv2d
from mmpelk.ops.backends import fft


@given(st.integers(1, 3000))
@settings(max_examples=200)
def test_fast_length_is_the_next_product_of_2_3_and_5(length):
    # For all a, b, c: 2^a 3^b 5^c. 4096 bounds the result, because it is such a product.
    smooth = {2**a * 3**b * 5**c for a in range(13) for b in range(8) for c in range(6)}
    assert fft.fast_length(length) == min(number for number in smooth if number >= length)


@pytest.mark.parametrize('channels_at_once', [1, 2])
def test_chunks_do_not_change_the_result(monkeypatch, channels_at_once):
    tensors = torch.randn(2, 5, 9, 7, requires_grad=True), torch.randn(5, 1, 11, 11, requires_grad=True)
    up, transforms, rfft2 = torch.randn(2, 5, 9, 7), [], torch.fft.rfft2

    def run():
        output = depthwise_conv2d(*tensors, backend='fft')
        return output, *torch.autograd.grad(output, tensors, up)

    def counted(*args, **kwargs):
        transforms.append(args)
        return rfft2(*args, **kwargs)

    whole = run()
    # A 9x7 map with a kernel of radius 5 is padded to 15x12. Its spectrum has 15x7 complex numbers, 8 bytes each, for 2 images.
    monkeypatch.setattr(fft, 'MAX_CACHE_BYTES', channels_at_once * 2 * 15 * 7 * 8)
    monkeypatch.setattr(torch.fft, 'rfft2', counted)
    chunked = run()
    # The output, the gradient of the input, and the gradient of the weight each need two forward transforms per chunk.
    assert len(transforms) == 3 * 2 * -(-5 // channels_at_once)
    for part, expected in zip(chunked, whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_the_output_does_not_keep_the_padded_transform_alive():
    output = depthwise_conv2d(torch.randn(1, 2, 16, 16), torch.randn(2, 1, 31, 31), backend='fft')
    assert output.is_contiguous() and output.untyped_storage().nbytes() == output.numel() * 4
