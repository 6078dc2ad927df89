"""Peripheral and plain depthwise convolution with very large kernels. Needs torch alone.

Four backends evaluate the same sum exactly: ``dense`` is torch's direct convolution, ``fft`` multiplies spectra, ``native`` adds up
cells in C++ on CPUs, ``triton`` on GPUs, and ``auto`` takes the fastest.
"""

from .backends import available_backends, describe_backends
from .depthwise import depthwise_conv2d
from .peripheral_conv import peripheral_conv2d, pos_embed_term
from .resizing import resize_pos_embed, resize_weight
from .sharing_grid import SharingGrid

__all__ = [
    'SharingGrid',
    'available_backends',
    'describe_backends',
    'depthwise_conv2d',
    'peripheral_conv2d',
    'pos_embed_term',
    'resize_pos_embed',
    'resize_weight',
]
