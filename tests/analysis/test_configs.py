"""Configs by name."""

import pytest

from mmpelk.analysis.configs import packaged_config
from mmpelk.utils.errors import InputError


def test_a_backbone_replaces_that_of_a_config_and_stays_as_it_is():
    backbone = dict(_delete_=True, type='mmpretrain.ConvNeXt', arch='tiny')
    for _ in range(2):
        cfg = packaged_config('upernet_pelk_t_ade20k', backbone)
        assert cfg.model.backbone == dict(type='mmpretrain.ConvNeXt', arch='tiny')
        assert cfg.model.decode_head.type == 'UPerHead'
    assert packaged_config('upernet_pelk_t_ade20k').model.backbone.type == 'PeLK'


def test_a_config_that_does_not_exist():
    with pytest.raises(InputError, match='none.py does not exist'):
        packaged_config('none')
