"""Which parts of a model are backbones with large kernels, and the names of their kernels."""

import pytest
from torch import nn

from mmpelk.models import PeLK, grow_kernels
from mmpelk.models.backbones import depthwise_kernels, large_kernel_backbones

SMALL = dict(depths=(2, 1, 1, 1), channels=(8, 8, 8, 8))


def pelk(**options):
    return PeLK(SMALL, kernel_sizes=(13, 13, 13, 13), **options)


def grown():
    """A backbone with a grown kernel, one that is not grown, and a layer that is no depthwise convolution."""
    model = nn.Sequential(nn.Conv2d(3, 4, 4), nn.Conv2d(4, 4, 7, padding=3, groups=4), nn.Conv2d(4, 4, 1))
    grow_kernels(model, 15)
    return model


def model_of(backbone):
    return nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(1, 1)))


@pytest.mark.parametrize('make', [pelk, grown])
def test_the_backbone_of_a_model(make):
    backbone = make()
    assert large_kernel_backbones(backbone) == [('', backbone)]
    assert large_kernel_backbones(model_of(backbone)) == [('backbone.', backbone)]
    assert large_kernel_backbones(nn.ModuleDict(dict(module=model_of(backbone)))) == [('module.backbone.', backbone)]


def test_grown_kernels_outside_of_a_backbone_make_the_model_one():
    model = nn.ModuleDict(dict(backbone=nn.Conv2d(3, 3, 7), neck=grown()))
    assert large_kernel_backbones(model) == [('', model)]


def test_several_backbones_and_none():
    one, two = pelk(), grown()
    model = nn.ModuleDict(dict(student=model_of(two), teacher=one))
    assert large_kernel_backbones(model) == [('teacher.', one), ('student.backbone.', two)]
    assert large_kernel_backbones(model_of(nn.Conv2d(3, 3, 7, groups=3))) == []


def test_names_of_the_kernels():
    blocks = ('0.0', '0.1', '1.0', '2.0', '3.0')
    large = [f'stages.{block}.token_mixer.large.weight' for block in blocks]
    small = [f'stages.{block}.token_mixer.small.weight' for block in blocks]
    assert depthwise_kernels(pelk(small_kernel=None)) == large
    assert sorted(depthwise_kernels(pelk())) == sorted(large + small)
    assert depthwise_kernels(grown()) == ['1.weight']
