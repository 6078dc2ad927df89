"""A checkpoint to resume from runs no code and removes no files, and an invalid one ends with a one-line error."""

import contextlib
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from mmengine.optim import StepLR
from tiny_runner import runner

from mmpelk.checkpoints import read_checkpoint
from mmpelk.checkpoints.resuming import check_resumable, check_schedule, latest_checkpoint
from mmpelk.utils.errors import InputError


@pytest.fixture
def trained(tmp_path, safe_io):
    """Return the checkpoint of a run over one epoch."""
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


@pytest.mark.parametrize(
    'victim',
    [
        'elsewhere/best_score_epoch_1.pth',
        'run/photos',
        'run/best_friends',
        'run/best_score_epoch_1.pth/..',
        'run/../elsewhere',
        7,
    ],
)
@pytest.mark.parametrize('metrics', [1, 2])
def test_resuming_removes_only_best_checkpoints_of_the_hook(tmp_path, safe_io, victim, metrics):
    """The path of the best checkpoint is read from the file. Saving the next best checkpoint removes the file at that path."""
    options = dict(save_best=['score', 'other'][:metrics], rule='greater')
    run = tmp_path / 'run'
    runner(run, epochs=1, scores=[0.1], **options).train()
    for folder in ('elsewhere/best_score_epoch_1.pth', 'run/photos', 'run/best_friends'):
        (tmp_path / folder).mkdir(parents=True)
    key = 'best_ckpt' if metrics == 1 else 'best_ckpt_score'
    path = victim if isinstance(victim, int) else f'{tmp_path}/{victim}'
    edit(run / 'epoch_1.pth', **{f'message_hub__runtime_info__{key}': path})
    runner(run, epochs=2, scores=[0.2], resume=True, **options).train()
    present = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*')}
    assert {'elsewhere/best_score_epoch_1.pth', 'run/photos', 'run/best_friends', 'run/best_score_epoch_2.pth'} <= present


def test_resuming_removes_the_previous_best_checkpoint(tmp_path, safe_io, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = dict(save_best='score', rule='greater')
    runner('run', epochs=1, scores=[0.1], **options).train()
    runner('run', epochs=2, scores=[0.2], resume=True, **options).train()
    assert [path.name for path in (tmp_path / 'run').glob('best*')] == ['best_score_epoch_2.pth']


@pytest.mark.parametrize('steps', [['/../../elsewhere/a'], 'text', 5, [1, None]])
def test_the_numbers_of_kept_checkpoints_are_integers(tmp_path, safe_io, steps):
    """The hook removes the checkpoints with these numbers."""
    run = tmp_path / 'run'
    runner(run, epochs=1, max_keep_ckpts=1).train()
    for folder in ('run/epoch_', 'elsewhere/a.pth'):
        (tmp_path / folder).mkdir(parents=True)
    edit(run / 'epoch_1.pth', message_hub__runtime_info__keep_ckpt_ids=steps)
    with pytest.raises(InputError, match=r'keep_ckpt_ids.*expected a list of integers'):
        runner(run, epochs=2, max_keep_ckpts=1, resume=True).train()
    assert (tmp_path / 'elsewhere/a.pth').exists()


def resume(path):
    """Do what tools/train.py does with a checkpoint to resume from."""
    check_resumable(read_checkpoint(path), path)
    runner(path.parent, epochs=3, scores=[0.1, 0.2], resume=True, save_best='score', rule='greater').train()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(last_step=7, gamma=0.3), ''),
        (dict(last_step='two'), r"param_schedulers\[1\]\['last_step'\] is 'two'; expected a number"),
        (dict(param_name='momentum'), r"\['param_name'\] is 'momentum'; expected 'lr'"),
        (dict(by_epoch=1), r"\['by_epoch'\] is 1; expected a bool"),
        (dict(base_values=[0.1, 0.2]), r"\['base_values'\] is \[0.1, 0.2\]; expected 1 numbers"),
    ],
)
def test_the_state_of_a_schedule(change, message):
    schedule = StepLR(torch.optim.SGD([torch.zeros(1)], lr=0.1), step_size=2)
    previous = dict(vars(schedule))
    schedule.load_state_dict(schedule.state_dict() | change)
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_schedule(vars(schedule), previous, 'x.pth', 1)


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            dict(meta=None),
            "has no meta\\['epoch'\\], meta\\['iter'\\], so training cannot be resumed from it; start from its weights",
        ),
        (dict(message_hub=None), 'has no message_hub, so training cannot be resumed'),
        (dict(meta__epoch='one'), "cannot be resumed from: meta\\['epoch'\\] is 'one'; expected an integer of at least 0"),
        (dict(meta__iter=-1), "meta\\['iter'\\] is -1; expected an integer"),
        (dict(meta__seed='text'), "meta\\['seed'\\] is 'text'; expected an integer"),
        (dict(message_hub=[]), r'message_hub is \[\]; expected a dict'),
        (dict(message_hub__resumed_keys=torch.zeros(2, 2)), "\\['resumed_keys'\\] is a Tensor; expected a dict"),
        (dict(message_hub__resumed_keys=dict(epoch=[])), "\\['resumed_keys'\\]\\['epoch'\\] is \\[\\]; expected a bool"),
        (dict(message_hub__log_scalars=None), "message_hub\\['log_scalars'\\] is None; expected a dict"),
        (dict(message_hub__runtime_info__best_score='high'), "\\['best_score'\\] is 'high'; expected a number"),
        (dict(optimizer=[1]), 'cannot be resumed from: '),
        (dict(optimizer__param_groups=[]), 'cannot be resumed from: .*parameter groups'),
        (dict(optimizer={}), "cannot be resumed from: it has no '(state|param_groups)'"),
        (
            dict(optimizer__param_groups=[dict(lr='fast', params=[0, 1])]),
            "the optimizer's lr in group 0 is 'fast'; expected a number",
        ),
        (dict(optimizer__state={0: dict(momentum_buffer=torch.zeros(3))}), 'momentum_buffer in group 0 is .3,.; expected .*1, 1'),
        (dict(param_schedulers=7), 'cannot be resumed from: '),
    ],
    ids=lambda value: '-'.join(value) if isinstance(value, dict) else '',
)
def test_a_checkpoint_that_cannot_be_resumed_from_ends_in_one_line(trained, changes, message):
    edit(trained, **changes)
    with pytest.raises(InputError, match=message):
        resume(trained)


def test_a_run_without_an_optimizer_in_its_checkpoint_resumes(trained):
    checkpoint = torch.load(trained, weights_only=False)
    del checkpoint['optimizer']
    torch.save(checkpoint, trained)
    resume(trained)
    assert (trained.parent / 'epoch_3.pth').exists()


def test_the_latest_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    path = tmp_path / 'a.pth'
    path.touch()
    (tmp_path / 'last_checkpoint').write_text(f'{path}\n')
    assert latest_checkpoint(tmp_path) == str(path)


@pytest.mark.parametrize(
    'content', [b'', b'nowhere.pth', b'\0', b'a' * 9000, b'\xff\xfe', b'a\nb'], ids=lambda content: repr(content[:9])
)
def test_garbage_in_last_checkpoint(tmp_path, content):
    (tmp_path / 'last_checkpoint').write_bytes(content)
    with pytest.raises(
        InputError, match=r'last_checkpoint names .* as the latest checkpoint, which does not exist; pass one'
    ) as caught:
        latest_checkpoint(tmp_path)
    assert '\n' not in str(caught.value)


RESUME = """
import sys
sys.modules['torchvision'] = None  # mmengine only logs its version, and in some environments importing it fails
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.linear(torch.stack(list(x))).square().sum())

def runner(iterations, **options):
    return Runner(
        model=Tiny(), work_dir=sys.argv[1], experiment_name=f'{iterations}', **options,
        train_dataloader=dict(
            batch_size=1, num_workers=0, dataset=[(torch.ones(1),)] * 4, sampler=dict(type='InfiniteSampler', shuffle=False)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        log_processor=dict(by_epoch=False),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)))

def resume(iterations):
    resumed = runner(iterations, resume=True)
    resumed.load_or_resume()
    loss = resumed.message_hub.get_scalar('train/loss')
    print('resumed at', resumed.iter, 'with', len(loss.data[0]), 'losses')
    resumed.train()

runner(2).train()
import mmpelk
resume(3)
resume(4)
"""


def test_a_plain_runner_resumes_without_safe_io(tmp_path):
    """The original mmengine reads checkpoints with torch.load, whose default is weights_only=True. OneDL's mmengine allow-lists the
    types itself."""
    command = [sys.executable, '-c', RESUME, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert re.findall('resumed at .*', result.stdout) == ['resumed at 2 with 2 losses', 'resumed at 3 with 3 losses']
    assert (tmp_path / 'iter_4.pth').exists()
    assert 'Falling back to weights_only=False' not in result.stdout + result.stderr
