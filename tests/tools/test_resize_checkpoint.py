"""tools/resize_checkpoint.py with default grids. test_classification.py trains, resizes outward, and tests."""

import runpy
import sys

import pytest
import torch
from conftest import TOOLS

from mmpelk.models import PeLK

KERNELS = ('--kernel-sizes', 21, 15, 15, 13)
KERNEL = 'backbone.stages.0.0.token_mixer.large'


@pytest.fixture
def checkpoint(tmp_path):
    model = torch.nn.Module()
    model.backbone = PeLK(arch=dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)), kernel_sizes=(13, 13, 13, 13))
    content = dict(state_dict=model.state_dict(), meta=dict(epoch=3), optimizer=dict(state={}))
    torch.save(content, tmp_path / 'old.pth')
    return content


@pytest.mark.parametrize('mode', ['extend', 'stretch'])
def test_default_grids(checkpoint, mode, monkeypatch, capsys, tmp_path):
    arguments = ['resize_checkpoint.py', tmp_path / 'old.pth', tmp_path / 'new.pth', *KERNELS, '--center-size', 7, '--mode', mode]
    monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
    runpy.run_path(str(TOOLS / 'resize_checkpoint.py'))['main']()
    new = torch.load(tmp_path / 'new.pth', weights_only=True)
    assert set(new) == {'state_dict', 'meta'} and new['meta'] == dict(epoch=3)
    expected = PeLK(arch=dict(depths=(1, 1, 1, 1), channels=(8, 8, 8, 8)), kernel_sizes=(13, 13, 13, 13))
    expected.load_state_dict({name.removeprefix('backbone.'): value for name, value in checkpoint['state_dict'].items()})
    expected.resize_kernels(KERNELS[1:], center_size=7, mode=mode)
    for name, value in expected.state_dict().items():
        assert torch.equal(new['state_dict'][f'backbone.{name}'], value), name
    assert (
        f"backbone.stages.0.*: kernels 13x13 resized to 21x21, half grid [2, 2, 1, 1, 1] to [5, 2, 1, 1, 1, 1], mode '{mode}'"
        in (capsys.readouterr().out)
    )


def test_a_kernel_without_its_grid(checkpoint, fail_tool, tmp_path):
    del checkpoint['state_dict'][f'{KERNEL}.half_grid']
    torch.save(checkpoint, tmp_path / 'old.pth')
    message = fail_tool('resize_checkpoint.py', 'old.pth', 'new.pth', *KERNELS, cwd=tmp_path)
    assert f'has no {KERNEL}.half_grid, which defines the grid of {KERNEL}.weight' in message
    assert not (tmp_path / 'new.pth').exists()


@pytest.mark.parametrize(
    'half',
    [
        torch.tensor(3),
        torch.tensor([[2, 2, 1, 1, 1]]),
        torch.tensor([2.0, 2, 1, 1, 1]),
        torch.tensor([], dtype=torch.long),
        torch.tensor([2, -2, 1, 1, 1]),
        torch.tensor([2, 2, 1, 1, 2]),
        torch.tensor([True] * 5),
        torch.tensor([2, 1, 1]),
        torch.tensor([10**12, 2, 1, 1, 1]),
    ],
    ids=['scalar', 'matrix', 'float', 'empty', 'negative', 'even', 'bool', 'short', 'huge'],
)
def test_a_grid_that_is_none(checkpoint, fail_tool, tmp_path, half):
    checkpoint['state_dict'][f'{KERNEL}.half_grid'] = half
    torch.save(checkpoint, tmp_path / 'old.pth')
    message = fail_tool('resize_checkpoint.py', 'old.pth', 'new.pth', *KERNELS, cwd=tmp_path)
    assert message.startswith(f'error: checkpoint old.pth: {KERNEL}.')
    assert not (tmp_path / 'new.pth').exists()
