import os
import stat

import pytest
import torch
from mmengine.fileio import get_file_backend

from mmpelk.checkpoints import saving, write_checkpoint


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_checkpoint(dict(a=1), path)
    monkeypatch.setattr(saving.os, 'fsync', lambda file: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        write_checkpoint(dict(a=2), path)
    assert torch.load(path, weights_only=True) == dict(a=1)
    assert os.listdir(tmp_path) == ['a.pth']


def test_mmengine_writes_through_it(tmp_path):
    backend = get_file_backend(str(tmp_path))
    assert isinstance(backend, saving.AtomicLocalBackend)
    backend.put(b'one', tmp_path / 'deep/a')
    backend.put_text('zwö', tmp_path / 'deep/b')
    assert (tmp_path / 'deep/a').read_bytes() == b'one' and (tmp_path / 'deep/b').read_text('utf-8') == 'zwö'
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / 'deep/a').stat().st_mode) == 0o666 & ~mask
