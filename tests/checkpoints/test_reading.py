import contextlib
import io
import os

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from PIL import Image
from safetensors.torch import save_file

from mmpelk.checkpoints import model_weights, read_checkpoint
from mmpelk.checkpoints.reading import load_safely
from mmpelk.utils.errors import InputError

needs_crc32_options = pytest.mark.skipif(
    not hasattr(torch.serialization, 'set_crc32_options'), reason='this torch always writes checksums'
)


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


@pytest.mark.parametrize('in_memory', [False, True])
def test_damaged_weights_are_found(tmp_path, in_memory):
    """torch.load does not compare the checksums in the file."""
    path = tmp_path / 'a.pth'
    torch.save(dict(state_dict={'a': torch.zeros(1000)}), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)['state_dict']['a'].count_nonzero() == 1
    with pytest.raises(
        InputError, match="a.pth is damaged: the checksum of its part '.*data/0' is wrong; copy or download it again"
    ):
        load_safely(io.BytesIO(content), str(path), 'cpu') if in_memory else read_checkpoint(path)


@needs_crc32_options
def test_files_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    torch.save({'a': torch.ones(3)}, tmp_path / 'a.pth')
    torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / 'a.pth')['a'].tolist() == [1, 1, 1]


def test_files_of_old_torch_versions_are_read(tmp_path):
    torch.save({'a': torch.ones(3)}, tmp_path / 'a.pth', _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / 'a.pth')['a'].tolist() == [1, 1, 1]


def test_another_kind_of_file_is_not_called_unsafe(tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.pth', format='JPEG')
    with pytest.raises(InputError, match=r"a.pth is truncated or not a checkpoint: it begins with b'\\xff\\xd8.*torch.save"):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@needs_crc32_options
@pytest.mark.parametrize('is_zip', [True, False])
def test_each_damaged_file_ends_in_one_line(tmp_path, is_zip):
    """Change 1 to 4 bytes in the pickle, where each byte matters. The zip file has no checksums, so torch reads the changed bytes."""
    path, random = tmp_path / 'a.pth', np.random.default_rng(0)
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    checkpoint = dict(
        meta=dict(epoch=1), state_dict={'a.b': torch.zeros(2), 'c': torch.ones(3, 2)}, message_hub=dict(loss=history)
    )
    torch.serialization.set_crc32_options(False)
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)
    torch.serialization.set_crc32_options(True)
    content, read = path.read_bytes(), 0
    for _ in range(500):
        changed = bytearray(content)
        for position in random.integers(0, 900, random.integers(1, 5)):
            changed[position] = random.integers(256)
        path.write_bytes(changed[: random.integers(1, len(content))] if random.random() < 0.1 else changed)
        with contextlib.suppress(InputError):
            model_weights(read_checkpoint(path))
            read += 1
    assert read < 400


@pytest.mark.parametrize(
    'checkpoint, message',
    [
        (dict(state_dict=[1]), "has a list as 'state_dict'; expected a dict"),
        (dict(state_dict=torch.zeros(1)), "has a Tensor as 'state_dict'; expected a dict"),
        (dict(state_dict={}, meta='text'), "has a str as 'meta'; expected a dict"),
        (dict(state_dict={1: torch.zeros(1)}), 'has 1 as the name of a weight; expected text'),
        ({None: torch.zeros(1)}, 'has None as the name of a weight; expected text'),
    ],
)
def test_parts_of_another_type_are_refused(tmp_path, checkpoint, message):
    torch.save(checkpoint, tmp_path / 'a.pth')
    with pytest.raises(InputError, match=f'a.pth {message}'):
        read_checkpoint(tmp_path / 'a.pth')


def test_meta_may_be_none(tmp_path):
    torch.save(dict(state_dict={}, meta=None), tmp_path / 'a.pth')
    assert read_checkpoint(tmp_path / 'a.pth')['meta'] == {}
