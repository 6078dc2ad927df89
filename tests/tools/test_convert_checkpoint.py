"""tools/convert_checkpoint.py on an official checkpoint with EMA weights. test_classification.py converts other formats."""

import runpy
import sys

import pytest
import torch
from conftest import CONFIGS, TOOLS

SMALL = f"""
_base_ = '{CONFIGS / 'demo/pelk_atto_digits_cls.py'}'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)), width_factor=1.0, small_kernel=None,
        norm_cfg=None, pos_embed=None),
    head=dict(in_channels=16))
"""


@pytest.fixture
def official(tmp_path):
    """A checkpoint whose two sets of weights have some of ConvNeXt's official names."""
    from mmengine.registry import MODELS, init_default_scope

    from mmpelk.engine.config import read_config

    (tmp_path / 'small.py').write_text(SMALL)
    cfg = read_config(str(tmp_path / 'small.py'))
    init_default_scope(cfg.default_scope)
    weights = MODELS.build(cfg.model).backbone.state_dict()
    checkpoint = {
        name: {key: torch.full_like(value, number) for key, value in weights.items()}
        for name, number in (('model', 1), ('model_ema', 2))
    }
    torch.save(checkpoint, tmp_path / 'official.pth')
    return checkpoint


@pytest.mark.parametrize(('options', 'number'), [((), 1), (('--ema',), 2)])
def test_ema(official, options, number, monkeypatch, capsys, tmp_path):
    arguments = ['convert_checkpoint.py', tmp_path / 'small.py', tmp_path / 'official.pth', tmp_path / 'out.pth', *options]
    monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
    runpy.run_path(str(TOOLS / 'convert_checkpoint.py'))['main']()
    weights = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    assert f'{len(weights)} tensors, ' in capsys.readouterr().out
    stem = weights['backbone.downsample_layers.0.0.weight']
    assert stem.shape == (16, 3, 4, 4) and (stem == number).all()


def test_no_ema(official, fail_tool, tmp_path):
    del official['model_ema']
    torch.save(official, tmp_path / 'official.pth')
    message = fail_tool('convert_checkpoint.py', 'small.py', 'official.pth', 'out.pth', '--ema', cwd=tmp_path)
    assert "official.pth has no 'model_ema'; its keys are model" in message and not (tmp_path / 'out.pth').exists()
