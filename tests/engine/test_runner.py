"""The Runner, its data pipelines, and accumulated gradients."""

import json
import logging
import socket
from types import SimpleNamespace

import cv2
import mmcv.transforms  # noqa: F401  registers LoadImageFromFile
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.hooks import EMAHook
from mmengine.registry import MODELS, init_default_scope
from torch import distributed as dist

from mmpelk.engine import runner as runner_module
from mmpelk.engine.runner import NamingPipeline, NamingRunner, accumulate_gradients, build_runner
from mmpelk.utils.errors import InputError


@pytest.fixture
def images(tmp_path):
    """A folder with two images, a truncated one, and the annotation files of two datasets with the whole or the broken image."""
    for name in ('first.png', 'second.png', 'broken.png'):
        cv2.imwrite(str(tmp_path / name), np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8))
    (tmp_path / 'broken.png').write_bytes((tmp_path / 'broken.png').read_bytes()[:200])
    for name, files in (('whole', ['first.png', 'second.png']), ('damaged', ['first.png', 'broken.png'])):
        entries = [dict(img_path=file, label=index) for index, file in enumerate(files)]
        (tmp_path / f'{name}.json').write_text(json.dumps(dict(metainfo={}, data_list=entries)))
    return tmp_path


def dataset(images, name):
    return dict(
        type=BaseDataset,
        ann_file=str(images / f'{name}.json'),
        data_prefix=dict(img_path=str(images)),
        pipeline=[dict(type='LoadImageFromFile', imdecode_backend='pillow')],
    )


def loader(dataset):
    init_default_scope('mmengine')
    sampler = dict(type='DefaultSampler', shuffle=False)
    settings = dict(dataset=dataset, batch_size=1, num_workers=0, sampler=sampler)
    return NamingRunner.build_dataloader(settings | dict(collate_fn=dict(type='pseudo_collate')))


# mmengine sets these for distributed runs; the test restores them.
THREADS = dict(OMP_NUM_THREADS=1, MKL_NUM_THREADS=1)
WRAPPERS = {
    'plain': lambda images, name: dataset(images, name),
    'repeated': lambda images, name: dict(type='RepeatDataset', times=2, dataset=dataset(images, name)),
    'concatenated': lambda images, name: dict(type='ConcatDataset', datasets=[dataset(images, 'whole'), dataset(images, name)]),
    'nested': lambda images, name: dict(
        type='ConcatDataset',
        datasets=[
            dataset(images, 'whole'),
            dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dataset(images, name)])),
        ],
    ),
}


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_datasets_in_wrappers_name_the_broken_file(images, wrapper):
    assert all(batch['img'][0].shape == (32, 32, 3) for batch in loader(WRAPPERS[wrapper](images, 'whole')))
    with pytest.raises(InputError, match=rf'^cannot read {images}/broken.png: '):
        list(loader(WRAPPERS[wrapper](images, 'damaged')))


@pytest.mark.parametrize(
    'error, named',
    [
        (OSError('image file is truncated'), True),
        (AssertionError('sizes differ'), True),
        (SyntaxError('broken PNG file'), True),
        (cv2.error('(-215) empty'), True),
        (KeyError('img'), False),
        (RuntimeError('CUDA'), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_reading_errors_name_files(error, named, images):
    def fail(data):
        raise error

    paths = dict(img_path=str(images / 'first.png'), seg_map_path=str(images / 'broken.png'))
    with pytest.raises(InputError if named else type(error)) as caught:
        NamingPipeline(Compose([fail]))(paths)
    if named:  # only the file that cannot be read
        assert str(caught.value) == f'cannot read {images}/broken.png: {error}'
        paths['seg_map_path'] = paths['img_path']
        with pytest.raises(InputError, match=f'first.png or {images}/first.png: '):
            NamingPipeline(Compose([fail]))(paths)


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


def test_build_runner_starts_the_process_group(toy, tmp_path, monkeypatch):
    """On a CPU, with gloo, and with DDP around the model."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    for name, value in dict(RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR='127.0.0.1', MASTER_PORT=port, **THREADS).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(runner_module, 'has_gpu', lambda: False)
    cfg = runner_config(tmp_path)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    try:
        runner = build_runner(cfg)
        assert dist.get_backend() == 'gloo' and runner.distributed and isinstance(runner.model.module, toy)
    finally:
        dist.destroy_process_group()


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


def fake_runner(total, batch, processes, hooks=()):
    cfg = Config(dict(train_dataloader=dict(batch_size=batch)))
    if total is not None:
        cfg.total_batch_size = total
    return SimpleNamespace(
        cfg=cfg, world_size=processes, optim_wrapper=dict(type='OptimWrapper'), hooks=list(hooks), logger=logging.getLogger()
    )


@pytest.mark.parametrize('total, batch, processes, steps', [(8, 2, 2, 2), (8, 4, 2, 1), (4096, 64, 8, 8), (6, 3, 1, 2)])
def test_accumulated_iterations_make_the_total_batch_size(total, batch, processes, steps):
    ema = EMAHook(momentum=0.1)
    runner = fake_runner(total, batch, processes, [ema])
    accumulate_gradients(runner)
    assert runner.optim_wrapper['accumulative_counts'] == steps and ema.ema_cfg['interval'] == steps


def test_no_total_batch_size_accumulates_nothing():
    ema = EMAHook(momentum=0.1)
    runner = fake_runner(None, 2, 1, [ema])
    accumulate_gradients(runner)
    assert runner.optim_wrapper == dict(type='OptimWrapper') and ema.ema_cfg.get('interval') in (None, 1)


@pytest.mark.parametrize('total, batch, processes', [(6, 4, 1), (8, 3, 2), (2, 4, 1), (0, 4, 1)])
def test_impossible_total_batch_sizes(total, batch, processes):
    message = f'total_batch_size={total} is not a multiple of {processes} processes x batch size {batch}; '
    with pytest.raises(InputError, match=message):
        accumulate_gradients(fake_runner(total, batch, processes))
