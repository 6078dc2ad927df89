"""Peripheral and plain depthwise convolution with very large kernels. Needs only torch.

Five backends compute the same exact result. ``dense`` is torch's direct convolution, ``fft`` multiplies spectra, ``native`` evaluates
the cells in C++ on CPUs, and ``triton`` and ``taps`` evaluate them on GPUs. ``auto`` selects the fastest one that can run.
"""

from .backends import available_backends, chosen_backends, describe_backends
from .functional import depthwise_conv2d, peripheral_conv2d, pos_embed_term
from .modules import DepthwiseConv2d, PeripheralConv2d
from .resizing import resize_pos_embed, resize_weight
from .sharing_grid import SharingGrid

__all__ = [
    'DepthwiseConv2d',
    'PeripheralConv2d',
    'SharingGrid',
    'available_backends',
    'chosen_backends',
    'depthwise_conv2d',
    'describe_backends',
    'peripheral_conv2d',
    'pos_embed_term',
    'resize_pos_embed',
    'resize_weight',
]
