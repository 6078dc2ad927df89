from pathlib import Path

import pytest
from mmengine.fileio import LocalBackend
from mmengine.runner import Runner, find_latest_checkpoint
from tiny_runner import runner

from mmpelk.checkpoints import AtomicCheckpointHook, read_checkpoint


@pytest.fixture
def removals(monkeypatch):
    """Record the checkpoints in a folder and the content of ``last_checkpoint`` each time a file is removed."""
    states, remove = [], LocalBackend.remove

    def record(backend, path):
        folder = Path(path).parent
        states.append((Path(path).name, checkpoints(folder), Path(find_latest_checkpoint(str(folder))).name))
        remove(backend, path)

    monkeypatch.setattr(LocalBackend, 'remove', record)
    return states


def checkpoints(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_the_outdated_checkpoint_is_removed_last(tmp_path, removals):
    runner(tmp_path, max_keep_ckpts=1).train()
    assert removals == [
        ('epoch_1.pth', ['epoch_1.pth', 'epoch_2.pth'], 'epoch_2.pth'),
        ('epoch_2.pth', ['epoch_2.pth', 'epoch_3.pth'], 'epoch_3.pth'),
    ]
    assert checkpoints(tmp_path) == ['epoch_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_3.pth')


@pytest.mark.parametrize('keep, expected', [(-1, [1, 2, 3]), (2, [2, 3])])
def test_the_number_of_checkpoints(tmp_path, keep, expected):
    runner(tmp_path, max_keep_ckpts=keep).train()
    assert checkpoints(tmp_path) == [f'epoch_{epoch}.pth' for epoch in expected]


def test_outdated_folders_are_removed(tmp_path, monkeypatch):
    """DeepSpeed saves a checkpoint as a folder."""
    monkeypatch.setattr(
        Runner, 'save_checkpoint', lambda self, folder, name, *args, **kwargs: Path(folder, name, 'a').mkdir(parents=True)
    )
    runner(tmp_path, max_keep_ckpts=1).train()
    assert checkpoints(tmp_path) == ['epoch_3.pth']


def test_the_previous_best_checkpoint_is_removed_last(tmp_path, removals):
    run = runner(tmp_path, scores=[0.1, 0.3, 0.2], save_best='score', rule='greater')
    run.train()
    assert [
        (removed, set(present) >= {'best_score_epoch_1.pth', 'best_score_epoch_2.pth'}) for removed, present, _ in removals
    ] == [('best_score_epoch_1.pth', True)]
    assert [name for name in checkpoints(tmp_path) if name.startswith('best')] == ['best_score_epoch_2.pth']
    # A second evaluation in the same epoch replaces the file of the same name.
    hook = next(hook for hook in run.hooks if isinstance(hook, AtomicCheckpointHook))
    for score in (0.4, 0.5):
        hook.after_val_epoch(run, dict(score=score))
    assert [name for name in checkpoints(tmp_path) if name.startswith('best')] == ['best_score_epoch_3.pth']
    assert read_checkpoint(tmp_path / 'best_score_epoch_3.pth')['message_hub']['runtime_info']['best_score'] == 0.5


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path):
    for name in ('.epoch_1.pth-abc.unfinished', '.other', 'notes.unfinished'):
        (tmp_path / name).touch()
    runner(tmp_path, epochs=1).train()
    assert {'.other', 'notes.unfinished'} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / '.epoch_1.pth-abc.unfinished').exists()
