"""The Runner: how it is built, and what it rejects."""

import pytest
import tiny_runner
import torch
from conftest import CONFIGS, free_port
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from mmpelk.engine import runner as runner_module
from mmpelk.engine.runner import NamingRunner, build_runner
from mmpelk.utils.errors import InputError

# mmengine sets these for distributed runs; the test restores them.
THREADS = dict(OMP_NUM_THREADS=1, MKL_NUM_THREADS=1)


def runner_config(tmp_path, **options):
    return Config(
        dict(model=dict(type='ToyForTests'), work_dir=str(tmp_path), launcher='none', experiment_name=tmp_path.name, **options)
    )


@pytest.fixture
def toy():
    from mmengine.model import BaseModel

    class Toy(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, *inputs, **kwargs):
            return {}

    init_default_scope('mmengine')
    MODELS.register_module(name='ToyForTests', module=Toy)
    yield Toy
    del MODELS.module_dict['ToyForTests']


def test_build_runner(toy, tmp_path):
    runner = build_runner(runner_config(tmp_path))
    assert isinstance(runner, NamingRunner) and isinstance(runner.model, toy) and not dist.is_initialized()


@pytest.fixture
def launched(monkeypatch):
    """Set the environment of the only process that torchrun has launched. Destroy the process group if the test starts one."""
    ranks = dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    for name, value in (ranks | THREADS).items():
        monkeypatch.setenv(name, str(value))
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    'launcher, variable', [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_LOCAL_RANK')]
)
def test_a_launcher_that_was_not_used(toy, tmp_path, launcher, variable, monkeypatch):
    monkeypatch.delenv(variable, raising=False)
    cfg = runner_config(tmp_path)
    cfg.launcher = launcher
    with pytest.raises(InputError, match=f'^launcher {launcher} needs the environment variable {variable}, which it sets'):
        build_runner(cfg)


@pytest.fixture
def process_group(launched):
    dist.init_process_group('gloo')


def test_build_runner_starts_the_process_group(toy, tmp_path, monkeypatch, launched):
    """On a CPU, the process group uses gloo, and DDP wraps the model."""
    monkeypatch.setattr(runner_module, 'has_gpu', lambda: False)
    cfg = runner_config(tmp_path)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    runner = build_runner(cfg)
    assert dist.get_backend() == 'gloo' and runner.distributed and isinstance(runner.model.module, toy)


TINY = dict(
    PeLK=dict(depths=(1, 1, 1, 1), channels=(16,) * 4),
    RepLKNet=dict(large_kernel_sizes=(31, 29, 27, 13), layers=(1,) * 4, channels=(20,) * 4, small_kernel=5, dw_ratio=1),
)


@pytest.mark.parametrize('gpu', [True, False], ids=['gpu', 'cpu'])
@pytest.mark.parametrize(
    'name', ['upernet_pelk_t_ade20k', 'baselines/upernet_slak_t_ade20k', 'baselines/upernet_replknet_b_ade20k']
)
def test_several_gpus_share_the_statistics_of_batch_norm(name, gpu, tmp_path, monkeypatch, process_group):
    """The configs' BatchNorms, in the backbone and in the heads, become SyncBN on several GPUs and BatchNorm on several CPUs."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    init_default_scope('mmseg')
    cfg.model.backbone.arch = TINY[cfg.model.backbone.type.split('.')[-1]]
    cfg.model.decode_head.update(in_channels=[20] * 4, channels=16)
    cfg.model.auxiliary_head.update(in_channels=20, channels=16)
    monkeypatch.setattr(runner_module, 'has_gpu', lambda: gpu)
    # DDP rejects SyncBN on a CPU.
    monkeypatch.setattr(torch.nn.parallel.DistributedDataParallel, '_passing_sync_batchnorm_handle', lambda self, module: None)
    runner = build_runner(
        Config(
            dict(
                model=cfg.model,
                default_scope='mmseg',
                work_dir=str(tmp_path),
                launcher='pytorch',
                sync_bn=cfg.sync_bn if gpu else None,  # load_config removes it
                model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None),
                experiment_name=tmp_path.name,
            )
        )
    )
    for part in ('backbone', 'decode_head'):
        norms = [module for module in getattr(runner.model.module, part).modules() if isinstance(module, _BatchNorm)]
        assert len(norms) >= 8 and {isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms} == {gpu}


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(model=dict(type='Nope')), 'the config cannot be built: Nope is not in'),
        (dict(model=dict(type='ToyForTests', nope=1)), 'unexpected keyword argument'),
        (dict(custom_hooks=[dict(type='Nope')]), 'Nope is not in'),
        (dict(train_cfg=dict(by_epoch=True)), 'train_dataloader, train_cfg, and optim_wrapper should be either all None'),
    ],
    ids=str,
)
def test_wrong_configs_are_input_errors(toy, tmp_path, change, message):
    cfg = runner_config(tmp_path)
    cfg.update(change)
    with pytest.raises(InputError, match=message):
        build_runner(cfg)


def test_missing_work_dir(toy):
    with pytest.raises(InputError, match=r'the config cannot be built: work_dir \(MMPELK_TRACEBACK=1 shows where\)'):
        build_runner(Config(dict(model=dict(type='ToyForTests'), launcher='none')))


def test_resuming_with_another_number_of_images_per_iteration_is_an_error(tmp_path):
    tiny_runner.runner(tmp_path, epochs=1).train()
    runner = tiny_runner.runner(tmp_path, epochs=2, resume=True)
    runner._train_dataloader['batch_size'] = 2
    with pytest.raises(InputError, match=r'had 1 images per iteration, and this run has 2 \(1 processes x batch size 2\)'):
        runner.train()
    tiny_runner.runner(tmp_path, epochs=2, resume=True).train()
    assert (tmp_path / 'epoch_2.pth').exists()
