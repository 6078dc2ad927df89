import os
import stat

import pytest
import torch

from mmpelk.checkpoints import write_atomically, write_checkpoint, writing


def test_a_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_checkpoint(dict(a=1), path)
    monkeypatch.setattr(writing.os, 'fsync', lambda file: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_checkpoint(dict(a=2), path)
    assert torch.load(path, weights_only=True) == dict(a=1)
    assert os.listdir(tmp_path) == ['a.pth']


def test_a_new_file_has_the_usual_permissions(tmp_path):
    write_atomically(b'one', tmp_path / 'deep/a')
    assert (tmp_path / 'deep/a').read_bytes() == b'one'
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / 'deep/a').stat().st_mode) == 0o666 & ~mask
