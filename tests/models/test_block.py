"""The parts of a block. tests/models/test_pelk.py tests whole backbones."""

import pytest
import torch
from torch import nn

from mmpelk.models.block import GRN, LayerNorm2d


def test_grn_is_that_of_convnext_v2():
    """tests/checkpoints/test_foreign_names.py compares whole models."""
    Theirs = pytest.importorskip('mmpretrain.models.utils').GRN
    ours, theirs, x = GRN(6), Theirs(6), torch.randn(2, 5, 4, 6)
    assert torch.equal(ours(x), x)  # at first
    for module in (ours, theirs):
        torch.manual_seed(1)
        nn.init.normal_(module.gamma)
        nn.init.normal_(module.beta)
    torch.testing.assert_close(ours(x), theirs(x, data_format='channel_last'))
    half = ours.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), theirs(x, data_format='channel_last'), atol=0.1)


def test_layer_norm_over_channels():
    norm, x = LayerNorm2d(6).double(), torch.randn(2, 6, 4, 5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    output = norm(x)
    scaled = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(output, scaled * norm.weight[:, None, None] + norm.bias[:, None, None])
    assert output.is_contiguous(memory_format=torch.channels_last)
