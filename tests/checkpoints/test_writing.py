import os

import pytest
import torch

from mmpelk.checkpoints import write_checkpoint
from mmpelk.utils.errors import InputError


def test_a_failed_write_keeps_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / 'a.pth'
    write_checkpoint(dict(a=1), path)
    monkeypatch.setattr(os, 'fsync', lambda file: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(InputError, match=r'^cannot write .*/a.pth: disk full$'):
        write_checkpoint(dict(a=2), path)
    assert torch.load(path, weights_only=True) == dict(a=1)
    assert os.listdir(tmp_path) == ['a.pth']
