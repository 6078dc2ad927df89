"""tools/convert_checkpoint.py on official checkpoints. tests/checkpoints/test_foreign_names.py converts the names of other packages."""

import argparse
import re
import runpy
import sys

import pytest
import torch
from conftest import CONFIGS, TOOLS

from mmpelk.models import PeLK

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
    """Return a checkpoint whose two sets of weights have some of ConvNeXt's official names."""
    from mmengine.registry import MODELS, init_default_scope

    from mmpelk.engine.config import read_config

    (tmp_path / 'small.py').write_text(SMALL)
    cfg = read_config(str(tmp_path / 'small.py'))
    init_default_scope(cfg.default_scope)
    weights = MODELS.build(cfg.model).backbone.state_dict()
    weights = {name: value for name, value in weights.items() if not name.endswith('half_grid')}
    checkpoint = {
        name: {key: torch.full_like(value, number) for key, value in weights.items()}
        for name, number in (('model', 1), ('model_ema', 2))
    }
    torch.save(checkpoint, tmp_path / 'official.pth')
    return checkpoint


@pytest.fixture
def convert(tmp_path, monkeypatch, capfd):
    """Run the tool in this process and return what it printed."""

    def run(config, source, *options):
        arguments = ['convert_checkpoint.py', tmp_path / config, tmp_path / source, tmp_path / 'out.pth', *options]
        monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
        runpy.run_path(str(TOOLS / 'convert_checkpoint.py'))['main']()
        return capfd.readouterr().out

    return run


@pytest.mark.parametrize(('options', 'number'), [((), 1), (('--ema',), 2)])
def test_ema(official, options, number, convert, tmp_path):
    printed = convert('small.py', 'official.pth', *options)
    weights = torch.load(tmp_path / 'out.pth', weights_only=True)['state_dict']
    assert f'{len(weights)} tensors, {len(weights)} of them in the backbone' in printed
    stem = weights['backbone.downsample_layers.0.0.weight']
    assert stem.shape == (16, 3, 4, 4) and (stem == number).all()


@pytest.mark.parametrize('kind', ['PeLK', 'GrownBackbone'])
@pytest.mark.parametrize('center, exact', [(7, True), (5, False)])
def test_it_says_whether_growing_is_exact(kind, center, exact, convert, tmp_path):
    """The file has 7x7 kernels, official names, and a command line that the training script saved."""
    arch = 'arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 12, 16, 20))'
    options = f'{arch}, conv_ratio=1.0, center_size={center}'
    if kind == 'GrownBackbone':
        # The center of a grown kernel is the old kernel. A kernel of another size does not fit into it.
        inner = "dict(type='ConvNeXt', arch=dict(depths=[1] * 4, channels=[8, 12, 16, 20]))"
        options = f"_delete_=True, type='GrownBackbone', kernel_sizes=(51, 51, 51, 13), backbone={inner}"
    size = 7 if kind == 'PeLK' or exact else 9
    (tmp_path / 'small.py').write_text(SMALL)
    (tmp_path / 'grown.py').write_text(f"_base_ = 'small.py'\nmodel = dict(backbone=dict({options}))\n")
    torch.manual_seed(0)
    source = PeLK(
        dict(depths=(1,) * 4, channels=(8, 12, 16, 20)),
        layer_scale_init_value=1.0,
        kernel_form='dense',
        kernel_sizes=(size,) * 4,
        **dict(width_factor=1.0, conv_ratio=1.0, small_kernel=None, norm_cfg=None, pos_embed=None, out_indices=(3,)),
    )
    weights = {name.replace('token_mixer.large', 'dwconv'): value for name, value in source.state_dict().items()}
    weights = {name: value for name, value in weights.items() if 'half_grid' not in name}
    torch.save(dict(model=weights, args=argparse.Namespace(model='convnext')), tmp_path / 'official.pth')
    printed = convert('grown.py', 'official.pth')
    line = next(line for line in printed.splitlines() if line.startswith('kernels are resized on loading'))
    change = float(re.search(r'the last features change by (\S+) of their norm', line)[1])
    if exact:
        assert ': this is exact;' in line and change < 1e-5
    else:
        assert f'this is NOT exact; a center of {size} would be;' in line and change > 0.001


def test_missing_and_unused_weights_need_a_flag(official, convert, fail_tool, tmp_path):
    """The model has norms for all outputs. The file has only the last norm, and weights that no backbone has."""
    (tmp_path / 'norms.py').write_text("_base_ = 'small.py'\nmodel = dict(backbone=dict(out_indices=(0, 3)))\n")
    official['model']['stages.0.0.extra'] = torch.zeros(1)
    torch.save(official, tmp_path / 'official.pth')
    message = fail_tool('convert_checkpoint.py', 'norms.py', 'official.pth', 'out.pth', cwd=tmp_path)
    assert 'it lacks 2 tensors of the backbone (norm0.weight, norm0.bias)' in message and '--allow-unused' in message
    assert not (tmp_path / 'out.pth').exists()
    convert('norms.py', 'official.pth', '--allow-missing', 'norm0.*', '--allow-unused', '*.extra')
    assert (tmp_path / 'out.pth').exists()


def test_no_ema(official, fail_tool, tmp_path):
    del official['model_ema']
    torch.save(official, tmp_path / 'official.pth')
    message = fail_tool('convert_checkpoint.py', 'small.py', 'official.pth', 'out.pth', '--ema', cwd=tmp_path)
    assert "official.pth has no 'model_ema'; its keys are model" in message and not (tmp_path / 'out.pth').exists()
