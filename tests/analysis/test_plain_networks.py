"""The networks written with torch only are the same as those of mmpelk."""

import torch

from mmpelk.analysis.plain_networks import plain_backbone
from mmpelk.models import PeLK

SIZES = dict(depths=(1, 2, 1, 1), channels=(16, 24, 32, 40))


def by_shape(model):
    """Return the parameters sorted by shape. Parameters of equal shape keep their order, which is the same in both networks."""
    return sorted(model.parameters(), key=lambda parameter: tuple(parameter.shape))


def test_the_plain_pelk_computes_what_pelk_does():
    torch.manual_seed(0)
    plain = plain_backbone('PeLK-T', True, **SIZES)
    pelk = PeLK(SIZES, width_factor=1, pos_embed=None, layer_scale_init_value=1.0)
    with torch.no_grad():
        for ours, theirs in zip(by_shape(plain), by_shape(pelk), strict=True):
            theirs.uniform_(-0.5, 0.5) if theirs.ndim == 1 else None
            ours.copy_(theirs)
    images = torch.randn(2, 3, 64, 64)
    for output, expected in zip(plain.train()(images), pelk.train()(images), strict=True):
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_names_select_kernels():
    mixers = {
        name: plain_backbone(name, False, **SIZES).stages[0][0].mixer for name in ('PeLK-101-T', 'ConvNeXt-T x 1.3', 'SLaK-T')
    }
    assert mixers['PeLK-101-T'].kernel_size == (101, 101) and mixers['PeLK-101-T'].grid.weight_size == 17
    assert mixers['PeLK-101-T'].weight.shape[0] == 6 and mixers['PeLK-101-T'].partial
    assert mixers['ConvNeXt-T x 1.3'].weight.shape == (16, 1, 7, 7)
    assert [conv.kernel_size for conv in mixers['SLaK-T'].convs] == [(51, 5), (5, 51), (5, 5)]
