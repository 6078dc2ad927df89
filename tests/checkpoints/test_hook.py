from pathlib import Path

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.model import BaseModel
from mmengine.runner import Runner, find_latest_checkpoint

from mmpelk.checkpoints import AtomicCheckpointHook


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.linear(torch.stack(list(x))).sum()) if mode == 'loss' else list(x)


class Scores(BaseMetric):
    """Return given scores, one per evaluation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=next(self.scores))


def runner(work_dir, epochs=3, scores=(), **options):
    loader = dict(batch_size=1, num_workers=0, dataset=[(torch.zeros(1),)], sampler=dict(type='DefaultSampler', shuffle=False))
    validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=[Scores(scores)]) if scores else {}
    return Runner(
        model=Tiny(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', interval=1, **options)),
        experiment_name=str(work_dir),
        **validation,
    )


@pytest.fixture
def removals(monkeypatch):
    """Record the checkpoints in a folder, and what ``last_checkpoint`` contains, at each removal of a file."""
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
    assert torch.load(tmp_path / 'best_score_epoch_3.pth', weights_only=True)['message_hub']['runtime_info']['best_score'] == 0.5


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path):
    for name in ('.epoch_1.pth-abc.unfinished', '.other', 'notes.unfinished'):
        (tmp_path / name).touch()
    runner(tmp_path, epochs=1).train()
    assert {'.other', 'notes.unfinished'} <= {path.name for path in tmp_path.iterdir()}
    assert not (tmp_path / '.epoch_1.pth-abc.unfinished').exists()
