"""Reading configs and adapting them to the machine."""

import argparse

import pytest
import torch
from conftest import CONFIGS
from mmengine.config import Config
from torch import distributed as dist

from mmpelk.engine import config as config_module
from mmpelk.engine.command_line import add_runner_arguments
from mmpelk.engine.config import enable_amp, load_config, read_config
from mmpelk.utils.errors import InputError

DEMO = CONFIGS / 'demo/upernet_pelk_atto_digits.py'


@pytest.fixture(autouse=True)
def no_local_rank(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', 'removed below')  # so that the variable is always restored
    monkeypatch.delenv('LOCAL_RANK')


@pytest.fixture
def with_gpu(monkeypatch):
    monkeypatch.setattr(config_module, 'has_gpu', lambda: True)


@pytest.fixture
def without_gpu(monkeypatch):
    monkeypatch.setattr(config_module, 'has_gpu', lambda: False)


def load(*arguments):
    parser = argparse.ArgumentParser()
    add_runner_arguments(parser)
    return load_config(parser.parse_args(list(map(str, arguments))))


@pytest.mark.parametrize(
    'text, options, message',
    [
        ('model = dict(', {}, r'config .*cfg.py cannot be read: .*MMPELK_TRACEBACK=1 shows where'),
        ("_base_ = 'none.py'", {}, r'config .*cfg.py cannot be read: .*none.py'),
        ('model = dict(depth=unknown)', {}, "cannot be read: name 'unknown' is not defined"),
        ('model = [][1]', {}, 'cannot be read: list index out of range'),
        ("custom_imports = dict(imports=['no_such_module'])\nmodel = dict()", {}, 'cannot be read: .*no_such_module'),
        ('x = 1', {}, r'config .*cfg.py has no model'),
        ('model = dict(layers=[1, 2])', {'model.layers.5': 1}, '--cfg-options do not fit .*cfg.py: '),
        ('model = dict(depth=1)', {'model.depth.x': 1}, '--cfg-options do not fit .*cfg.py: '),
    ],
)
def test_configs_that_cannot_be_read(text, options, message, tmp_path):
    (tmp_path / 'cfg.py').write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_config(str(tmp_path / 'cfg.py'), options)
    assert '\n' not in str(caught.value)


def test_missing_config(tmp_path):
    with pytest.raises(InputError, match=r'config nowhere.py does not exist'):
        read_config('nowhere.py')
    with pytest.raises(InputError, match='does not exist'):
        read_config(str(tmp_path))  # a folder


def test_options_override_the_config(tmp_path):
    (tmp_path / 'cfg.py').write_text("model = dict(type='A', layers=[dict(width=1), dict(width=2)])")
    cfg = read_config(str(tmp_path / 'cfg.py'), {'model.type': 'B', 'model.layers.1.width': 7, 'new.key': 3})
    assert cfg.model == dict(type='B', layers=[dict(width=1), dict(width=7)]) and cfg.new.key == 3


def test_preprocessor_next_to_the_model(tmp_path):
    """mmpretrain's own configs define the preprocessor outside the model."""
    (tmp_path / 'cfg.py').write_text("model = dict(type='A')\ndata_preprocessor = dict(mean=[1, 2, 3])")
    assert read_config(str(tmp_path / 'cfg.py')).model.data_preprocessor.mean == [1, 2, 3]
    (tmp_path / 'cfg.py').write_text('model = dict(data_preprocessor=dict(mean=[0]))\ndata_preprocessor = dict(mean=[1, 2, 3])')
    assert read_config(str(tmp_path / 'cfg.py')).model.data_preprocessor.mean == [0]


def test_work_dir(tmp_path):
    (tmp_path / 'cfg.py').write_text('model = dict()')
    assert load(tmp_path / 'cfg.py').work_dir == 'work_dirs/cfg'
    (tmp_path / 'cfg.py').write_text("model = dict()\nwork_dir = 'own'")
    assert load(tmp_path / 'cfg.py').work_dir == 'own'
    assert load(tmp_path / 'cfg.py', '--work-dir', 'given').work_dir == 'given'


def test_checkpoints_are_saved_atomically(tmp_path):
    cfg = load(DEMO, '--cfg-options', 'default_hooks.checkpoint.interval=7')
    assert (cfg.default_hooks.checkpoint.type, cfg.default_hooks.checkpoint.interval) == ('AtomicCheckpointHook', 7)
    (tmp_path / 'cfg.py').write_text("model = dict()\ndefault_hooks = dict(checkpoint=dict(type='OwnHook'))")
    assert load(tmp_path / 'cfg.py').default_hooks.checkpoint.type == 'OwnHook'
    (tmp_path / 'cfg.py').write_text('model = dict()\ndefault_hooks = dict(checkpoint=None)')
    assert load(tmp_path / 'cfg.py').default_hooks.checkpoint is None


AMP = """
model = dict()
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='bfloat16', use_fsdp=False, optimizer=dict(type='SGD'))
"""


def test_amp_config_without_a_gpu(without_gpu, tmp_path):
    (tmp_path / 'cfg.py').write_text(AMP)
    assert load(tmp_path / 'cfg.py').optim_wrapper == dict(type='OptimWrapper', optimizer=dict(type='SGD'))


def test_amp_config_with_a_gpu(with_gpu, tmp_path):
    (tmp_path / 'cfg.py').write_text(AMP)
    assert load(tmp_path / 'cfg.py').optim_wrapper == Config.fromfile(tmp_path / 'cfg.py').optim_wrapper


def test_reading_a_distributed_config_starts_no_process_group(without_gpu, monkeypatch):
    for name, value in dict(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0').items():
        monkeypatch.setenv(name, value)
    cfg = load(DEMO, '--launcher', 'pytorch', '--cfg-options', 'find_unused_parameters=True')
    assert not dist.is_initialized()
    assert cfg.launcher == 'pytorch'
    wrapper = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False, find_unused_parameters=True)
    assert cfg.model_wrapper_cfg == wrapper
    assert 'model_wrapper_cfg' not in load(DEMO)


def test_sync_bn_is_for_gpus(without_gpu):
    """On CPUs, a hook averages the statistics instead. One process needs neither."""
    cfg = load(DEMO, '--launcher', 'pytorch')
    assert cfg.sync_bn is None and cfg.custom_hooks[-1] == dict(type='AverageStatisticsHook')
    cfg = load(DEMO)
    assert cfg.sync_bn == 'torch' and 'AverageStatisticsHook' not in [hook.type for hook in cfg.custom_hooks]


def test_ddp_uses_the_devices_of_a_gpu_machine(with_gpu):
    cfg = load(DEMO, '--launcher', 'pytorch')
    assert 'model_wrapper_cfg' not in cfg and cfg.sync_bn == 'torch'
    assert 'AverageStatisticsHook' not in [hook.type for hook in cfg.custom_hooks]


def test_local_rank(monkeypatch):
    import os

    load(DEMO, '--local-rank', 3)
    assert os.environ['LOCAL_RANK'] == '3'
    load(DEMO, '--local_rank', 2)  # torchrun's variable takes precedence
    assert os.environ['LOCAL_RANK'] == '3'


@pytest.mark.parametrize('bfloat16', [True, False])
def test_enable_amp(with_gpu, monkeypatch, bfloat16):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: bfloat16)
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'))))
    enable_amp(cfg)
    options = dict(dtype='bfloat16', loss_scale=dict(enabled=False)) if bfloat16 else dict(dtype='float16', loss_scale='dynamic')
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', optimizer=dict(type='SGD'), **options)
    cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', loss_scale=512.0)))
    enable_amp(cfg)
    assert cfg.optim_wrapper == dict(type='AmpOptimWrapper', loss_scale=512.0)
    with pytest.raises(InputError, match=r"--amp replaces OptimWrapper, but the config has optim_wrapper.type='Own'"):
        enable_amp(Config(dict(optim_wrapper=dict(type='Own'))))


def test_enable_amp_without_a_gpu(without_gpu):
    with pytest.raises(InputError, match='--amp needs a GPU, and this machine has none'):
        enable_amp(Config(dict(optim_wrapper=dict(type='OptimWrapper'))))
