import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from mmengine.logging import HistoryBuffer

from mmpelk.checkpoints import reading
from mmpelk.checkpoints.reading import load_allowed_types
from mmpelk.checkpoints.safe_types import multiarray

DTYPES = ['float64', 'float32', 'float16', 'int64', 'int32', 'uint8', 'bool', 'complex64']


class GetAttribute:
    """Unpickle to an attribute of an object."""

    def __init__(self, owner, name):
        self.owner, self.name = owner, name

    def __reduce__(self):
        return getattr, (self.owner, self.name)


@pytest.fixture(autouse=True, params=[True, False], ids=['weights_only', 'restricted_pickle'])
def way(request, monkeypatch):
    """Read as with torch 2.6 and newer, and as with older versions, which also works with newer ones."""
    if request.param and not reading.CAN_ALLOW_TYPES:
        pytest.skip('types can be allowed since torch 2.6')
    monkeypatch.setattr(reading, 'CAN_ALLOW_TYPES', request.param)


def reload(value, path, **options):
    torch.save(value, path, **options)
    return load_allowed_types(path)


@given(array=st.sampled_from(DTYPES).flatmap(lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_side=4))))
def test_arrays_and_scalars(array, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / 'array.pth'
    loaded = reload(array, path)
    assert loaded.dtype == array.dtype and loaded.shape == array.shape and loaded.tobytes() == array.tobytes()
    if array.size:
        scalar = array.flat[0]
        loaded = reload(scalar, path)
        assert type(loaded) is type(scalar) and loaded.tobytes() == scalar.tobytes()


def test_history_buffers(tmp_path):
    history = reload(HistoryBuffer([1.0, 2.0, 6.0], [1, 1, 1]), tmp_path / 'a.pth')
    assert history.mean() == 3.0 and history.max() == 6.0 and history.current() == 6.0
    assert history.statistics('min') == 1.0


def test_command_lines_of_training_scripts(tmp_path):
    arguments = argparse.Namespace(lr=4e-3, model='convnext_tiny', epochs=[1, 2])
    loaded = reload(dict(args=arguments, model=dict(weight=torch.ones(1))), tmp_path / 'a.pth')
    assert vars(loaded['args']) == vars(arguments) and loaded['model']['weight'] == 1
    assert not isinstance(loaded['args'], argparse.Namespace)


def test_files_written_with_numpy_1(tmp_path):
    """NumPy 2 renamed the module of the functions that rebuild arrays and scalars."""
    path = tmp_path / 'a.pth'
    torch.save(dict(array=np.arange(3.0), scalar=np.float64(2)), path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b'numpy._core.multiarray', b'numpy.core.multiarray')
    assert old.count(b'numpy.core.multiarray') == 2
    path.write_bytes(old)
    loaded = load_allowed_types(path)
    assert loaded['array'].tolist() == [0.0, 1.0, 2.0] and loaded['scalar'] == 2


@pytest.mark.parametrize(
    'value',
    [
        GetAttribute(HistoryBuffer, '__init__'),
        GetAttribute(HistoryBuffer, '_set_default_statistics'),
        GetAttribute(np.ndarray, 'tofile'),
        np.array([print], dtype=object),
        os.system,
        np.load,
        argparse.Namespace(run=os.system),
    ],
    ids=['dunder', 'private', 'other class', 'object array', 'os', 'numpy', 'os in a command line'],
)
def test_everything_else_is_refused(tmp_path, value):
    with pytest.raises(pickle.UnpicklingError, match=r'Unsupported|GLOBAL'):
        reload(value, tmp_path / 'a.pth')


@pytest.mark.skipif(not reading.CAN_ALLOW_TYPES, reason='types can be allowed since torch 2.6')
def test_the_allow_list_is_restored(tmp_path):
    with torch.serialization.safe_globals([np.ndarray, np.dtype]):  # stand-ins replace them during a load
        before = set(torch.serialization.get_safe_globals())
        assert reload(HistoryBuffer([1.0], [1]), tmp_path / 'a.pth').mean() == 1.0
        assert set(torch.serialization.get_safe_globals()) == before


class Rebuild:
    """Unpickle by a call, and then set a state."""

    def __init__(self, function, arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self):
        return self.function, self.arguments, self.state


def subarray(element):
    """A dtype of numbers that turns into a subarray when its state is set."""
    return Rebuild(np.dtype, ('f8', False, True), (3, '|', (element, (1,)), None, None, 8, 8, 63))


POINTER = Rebuild(np.dtype, ('O', False, True))
REBUILD = multiarray._reconstruct, (np.ndarray, (0,), b'b')


@pytest.mark.parametrize(
    'value',
    [
        Rebuild(multiarray.scalar, (subarray(POINTER), b'A' * 8)),
        Rebuild(*REBUILD, (1, (1,), subarray(POINTER), False, [b'A' * 8])),
        Rebuild(*REBUILD, (1, (1,), subarray(np.dtype('f8')), False, b'A' * 8)),
        Rebuild(np.ndarray, ((1,), subarray(POINTER), b'A' * 8)),
        Rebuild(np.ndarray, ((1,), np.dtype('f8'))),
        Rebuild(*REBUILD, (1, (1,), POINTER, False, [None])),
        np.zeros(1, [('a', 'f8'), ('b', 'O')]),
        np.array(['a']),
    ],
    ids=['scalar', 'array', 'subarray', 'constructor', 'uninitialized', 'objects', 'fields', 'text'],
)
def test_only_arrays_of_plain_numbers_are_built(tmp_path, value):
    with pytest.raises((pickle.UnpicklingError, ValueError), match='Unsupported'):
        reload(value, tmp_path / 'a.pth')


def test_history_buffers_hold_two_lists_of_numbers_and_the_usual_statistics(tmp_path):
    history = HistoryBuffer([1.0], [1])
    history._log_history = ['text']
    with pytest.raises(pickle.UnpicklingError, match='Unsupported: a HistoryBuffer'):
        reload(history, tmp_path / 'a.pth')
    history = HistoryBuffer([1.0], [1])
    history._statistics_methods = dict(mean=HistoryBuffer.update)
    loaded = reload(history, tmp_path / 'a.pth')
    assert type(loaded) is HistoryBuffer and loaded.statistics('mean') == 1.0


def test_arrays_are_saved_again_as_arrays(tmp_path):
    values = dict(big=np.arange(3, dtype='>f8'), palette=np.arange(6, dtype=np.uint8).reshape(2, 3).T)
    loaded = reload(reload(values, tmp_path / 'a.pth'), tmp_path / 'b.pth')
    assert b'mmpelk' not in (tmp_path / 'b.pth').read_bytes()
    assert all(np.array_equal(loaded[name], values[name]) for name in values)  # NumPy itself converts the byte order
    assert loaded['palette'].dtype == np.uint8
