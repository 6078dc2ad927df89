import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from mmpelk.checkpoints import model_weights, read_checkpoint
from mmpelk.utils.errors import InputError


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class TakesAnAttribute:
    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


def test_reads_what_mmengine_saves(tmp_path):
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save(dict(state_dict={'a': torch.ones(2)}, message_hub=dict(log_scalars=dict(loss=history))), tmp_path / 'a.pth')
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert checkpoint['message_hub']['log_scalars']['loss'].mean() == 2.0
    assert torch.equal(model_weights(checkpoint)['a'], torch.ones(2))


def test_hostile_pickles_are_refused(tmp_path):
    for name, payload in (('call', RunsCode(tmp_path / 'made')), ('getattr', TakesAnAttribute())):
        path = tmp_path / f'{name}.pth'
        torch.save(dict(state_dict={}, extra=payload), path)
        with pytest.raises(InputError, match=f'{name}.pth cannot be loaded safely: .*(Unsupported|unsupported)'):
            read_checkpoint(path)
    assert not (tmp_path / 'made').exists()


def test_arrays_of_objects_are_refused(tmp_path):
    torch.save(dict(state_dict={}, extra=np.array([1], dtype=object)), tmp_path / 'a.pth')
    with pytest.raises(InputError, match="a.pth cannot be loaded safely: .*dtype 'O8'"):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('content', [b'', b'not a checkpoint', 'half'])
def test_broken_files_are_refused(tmp_path, content):
    path = tmp_path / 'broken.pth'
    if content == 'half':
        torch.save({'a': torch.zeros(1000)}, path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(InputError, match='broken.pth (is truncated or not a checkpoint|cannot be loaded safely): '):
        read_checkpoint(path)


def test_safetensors(tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file({'a': torch.arange(1000)}, path)
    assert torch.equal(read_checkpoint(path)['a'], torch.arange(1000))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match='a.safetensors is truncated or not a safetensors file: '):
        read_checkpoint(path)


def test_missing_file_and_wrong_type(tmp_path):
    with pytest.raises(InputError, match='checkpoint .*none.pth does not exist'):
        read_checkpoint(tmp_path / 'none.pth')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(InputError, match='contains a list; expected a dict'):
        read_checkpoint(tmp_path / 'list.pth')


def test_model_weights_strips_prefixes():
    weights = {'module.backbone.a': torch.zeros(1), 'backbone.b': torch.zeros(1), 'head.c': torch.zeros(1)}
    assert set(model_weights({'state_dict': weights}, 'backbone.')) == {'a', 'b'}
    assert set(model_weights(weights)) == {'backbone.a', 'backbone.b', 'head.c'}
