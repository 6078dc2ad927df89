"""Two machines train together: two launches with one rendezvous, each with its own work dir and download cache."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT, TOOLS, free_port, tool_env

PARTS = """
import os
import signal

import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS


@MODELS.register_module()
class Linear(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, x, mode):
        return dict(loss=self.linear(torch.stack(x)).square().sum())


@DATASETS.register_module()
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return dict(x=torch.tensor([index / 8]))


@HOOKS.register_module()
class Kill(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 2 and os.environ.get('KILLED') == str(get_rank()):
            os.kill(os.getpid(), signal.SIGKILL)
"""
CONFIG = """
custom_imports = dict(imports=['mmpelk', 'parts'])
custom_hooks = [dict(type='Kill')]
model = dict(type='Linear')
train_dataloader = dict(
    batch_size=1, num_workers=0, dataset=dict(type='Numbers'), sampler=dict(type='InfiniteSampler', shuffle=False))
train_cfg = dict(type='IterBasedTrainLoop', max_iters=4)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1))
log_processor = dict(by_epoch=False)
"""


@pytest.fixture
def machines(tmp_path):
    """Return two folders, each with the config and its own work dir."""
    folders = [tmp_path / f'machine{rank}' for rank in range(2)]
    for folder in folders:
        folder.mkdir()
        (folder / 'parts.py').write_text(PARTS)
        (folder / 'config.py').write_text(CONFIG)
    return folders


def train(machines, *options, **variables):
    """Start tools/dist_train.sh on all machines at the same time, and return the exit codes and the outputs."""
    port = free_port()
    processes = []
    for rank, folder in enumerate(machines):
        env = {**tool_env(), 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, 'PYTHONPATH': f'{ROOT}:{folder}', **variables}
        env |= dict(NNODES='2', NODE_RANK=str(rank), MASTER_ADDR='127.0.0.1', PORT=str(port), TORCH_HOME=str(folder / 'cache'))
        command = ['bash', str(TOOLS / 'dist_train.sh'), 'config.py', '1', '--work-dir', 'work', *map(str, options)]
        processes.append(
            subprocess.Popen(
                command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        )
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return [process.returncode for process in processes], outputs


@pytest.fixture
def url(tmp_path):
    """Return the URL of a checkpoint with a weight of 3."""
    (tmp_path / 'server').mkdir()
    weights = {'linear.weight': torch.full((1, 1), 3.0), 'linear.bias': torch.zeros(1)}
    torch.save(dict(state_dict=weights), tmp_path / 'server/three.pth')
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / 'server')
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}/three.pth'
        server.shutdown()


def test_a_killed_process_ends_the_job_and_both_machines_resume(machines, url):
    codes, outputs = train(machines, '--cfg-options', f'load_from={url}', KILLED='1')
    assert all(codes), outputs
    assert 'Signal 9 (SIGKILL)' in outputs[1]
    assert [len(list(folder.glob('cache/hub/checkpoints/three*.pth'))) for folder in machines] == [1, 1]
    assert sorted(path.name for path in machines[0].glob('work/*.pth')) == ['iter_1.pth', 'iter_2.pth']
    assert not list(machines[1].glob('work/*.pth'))
    shutil.copy(machines[0] / 'work/iter_2.pth', machines[1] / 'work')
    codes, outputs = train(machines, '--resume', 'work/iter_2.pth')
    assert codes == [0, 0], outputs
    assert 'resumed epoch: 0, iter: 2' in outputs[0] and (machines[0] / 'work/iter_4.pth').exists()


DISAGREE = """
import os
import sys

from mmpelk.engine.preflight import check_processes_agree
from torch import distributed

for rank in range(2):
    if os.fork() == 0:
        distributed.init_process_group('gloo', init_method=f'file://{sys.argv[1]}/rendezvous', rank=rank, world_size=2)
        checkpoint = dict(meta=dict(epoch=0, iter=2))
        check_processes_agree(checkpoint, 'work')
        try:
            check_processes_agree(checkpoint if rank == 0 else None, 'work')
        except ValueError as error:
            os.write(1, f'process {rank} stops: {error}\\n'.encode())  # in one piece
        os._exit(0)
for _ in range(2):
    os.wait()
"""


def test_all_processes_resume_from_the_same_checkpoint(tmp_path):
    command = [sys.executable, '-c', DISAGREE, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, env=tool_env(), capture_output=True, text=True, timeout=300)
    lines = sorted(result.stdout.splitlines())
    assert [line[:16] for line in lines] == ['process 0 stops:', 'process 1 stops:'], result.stderr
    assert all(
        '(process 0 at iteration 2, process 1 starts from scratch); copy the checkpoint to every machine' in line
        for line in lines
    )
