"""A checkpoint to resume from runs no code, removes no files, and ends in one line if it is not one."""

import pytest
import torch
from tiny_runner import runner


@pytest.fixture
def trained(tmp_path, safe_io):
    """The checkpoint of a run over one epoch."""
    runner(tmp_path, epochs=1).train()
    return tmp_path / 'epoch_1.pth'


def edit(path, **changes):
    """Replace entries of a checkpoint, by keys with '__' between the levels."""
    checkpoint = torch.load(path, weights_only=False)
    for key, value in changes.items():
        *folders, name = key.split('__')
        place = checkpoint
        for folder in folders:
            place = place[folder]
        place[name] = value
    torch.save(checkpoint, path)


def test_the_config_in_a_checkpoint_does_not_run(tmp_path, trained):
    """mmengine's Runner.resume would execute meta.config, which mmcv wrote as Python code."""
    edit(trained, meta__config=f"import os; os.mkdir('{tmp_path / 'made'}')")
    resumed = runner(tmp_path, epochs=2, resume=True)
    resumed.train()
    assert resumed.epoch == 2 and not (tmp_path / 'made').exists()
