"""Reading with torch before 2.6. Newer versions can read in this way too, so it is tested with all versions."""

import io
import pickle
from collections import OrderedDict

import pytest
import torch

from mmpelk.checkpoints import reading, restricted_pickle
from mmpelk.checkpoints.reading import load_allowed_types
from mmpelk.checkpoints.safe_types import STAND_INS

HISTORY = b'cmmengine.logging.history_buffer\nHistoryBuffer\n'


@pytest.fixture(autouse=True)
def restricted(monkeypatch):
    monkeypatch.setattr(reading, 'CAN_ALLOW_TYPES', False)


def read(pickled):
    """Read a pickle. The bytes begin after the protocol and end before the last instruction."""
    return restricted_pickle.load(io.BytesIO(b'\x80\x02' + pickled + b'.'))


def test_what_weights_only_reads_is_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 2, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    shared = torch.arange(6.0)
    checkpoint = dict(
        model=model.state_dict(),
        optimizer=optimizer.state_dict(),
        tensors=[shared[:2], shared[1:], shared.to(torch.bool), shared.to_sparse(), torch.nn.Parameter(shared)],
        plain=[b'\xff\x00', 'text', 1, 2**70, -1.5, 1j, None, True, (), {1, 2}, bytearray(b'ab'), torch.Size([1, 2])],
        types=[torch.float32, torch.bool, torch.device('cpu'), torch.strided],
    )
    for is_zip in (True, False):
        torch.save(checkpoint, tmp_path / 'a.pth', _use_new_zipfile_serialization=is_zip)
        loaded = load_allowed_types(tmp_path / 'a.pth')
        expected = torch.load(tmp_path / 'a.pth', weights_only=False)
        assert loaded['plain'] == expected['plain'] == checkpoint['plain'] and loaded['types'] == checkpoint['types']
        for name, value in expected['model'].items():
            assert type(loaded['model']) is OrderedDict and torch.equal(loaded['model'][name], value)
        assert loaded['model']._metadata == checkpoint['model']._metadata
        for index, state in expected['optimizer']['state'].items():
            assert all(torch.equal(loaded['optimizer']['state'][index][name], value) for name, value in state.items())
        first, second, mask, sparse, parameter = loaded['tensors']
        first[1] = 9  # storages stay shared
        assert second[0] == 9 and mask.dtype == torch.bool and torch.equal(sparse.to_dense(), torch.arange(6.0))
        assert type(parameter) is torch.nn.Parameter and parameter.requires_grad


@pytest.mark.parametrize(
    'pickled',
    [
        b'cos\nsystem\n',
        b'cposix\nsystem\n',
        b'cbuiltins\neval\n',
        b'cmmengine.logging.history_buffer\nHistoryBuffer.mean\n',
        b'ccollections\nOrderedDict.update\n',
        HISTORY + b'}X\x01\x00\x00\x00aK\x01sb',  # set an attribute of a class
        HISTORY + b'N}X\x01\x00\x00\x00aK\x01s\x86b',
        b'ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb',  # set an attribute of a function
        HISTORY + b'X\x01\x00\x00\x00aK\x01s',  # set an item of a class
        HISTORY + b'K\x01a',
        HISTORY + b'(K\x01e',
        HISTORY + b'(K\x01K\x02u',
        b'ccollections\nOrderedDict\n)RK\x01a',  # append to a dict
        b'X\x01\x00\x00\x00a)R',  # call text
        b'K\x01)\x81',
        b'X\x01\x00\x00\x00aQ',  # persistent objects
        b'(ios\nsystem\n',
        b'(cos\nsystem\no',
        b'\x82\x01',  # the registry of extensions
        b'\x8c\x02os\x8c\x06system\x93',
        b'I1\n',
    ],
)
def test_pickles_that_call_or_change_anything_else_are_refused(pickled):
    before = {name: dict(vars(stand_in)) for name, stand_in in STAND_INS.items()}
    with pytest.raises(pickle.UnpicklingError):
        read(pickled)
    assert before == {name: dict(vars(stand_in)) for name, stand_in in STAND_INS.items()}


def test_other_archives_are_refused(tmp_path):
    """torch before 2.6 would read them in other ways."""
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / 'program.pt')
    with pytest.raises(pickle.UnpicklingError, match='Unsupported: a TorchScript program'):
        load_allowed_types(tmp_path / 'program.pt')
