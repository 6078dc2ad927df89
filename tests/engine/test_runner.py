"""The Runner, its data pipelines, and accumulated gradients."""

import json
import logging
from types import SimpleNamespace

import cv2
import mmcv.transforms
import numpy as np
import pytest
import tiny_runner
import torch
from conftest import CONFIGS, free_port
from mmengine.config import Config
from mmengine.dataset import BaseDataset, Compose
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.registry import MODELS, init_default_scope
from torch import distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

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


def test_an_image_of_another_size_than_its_annotations(tmp_path):
    path = str(tmp_path / 'image.png')
    cv2.imwrite(path, np.zeros((4, 6), np.uint8))
    for height, width in ((4, 6), (6, 4)):  # Exif data can turn an image
        assert pipeline(seen=1)(dict(img_path=path, height=height, width=width))['seen'] == 1
    with pytest.raises(InputError, match='image.png is 6x4, but its annotations are for 6x5'):
        pipeline()(dict(img_path=path, height=5, width=6))


def test_an_empty_data_set():
    with pytest.raises(InputError, match='^the data set is empty: no image in its folders has the expected suffix'):
        loader([])


def pipeline(**options):
    return NamingPipeline(Compose([lambda data: data | options]))


def test_deep_images_and_label_maps(tmp_path):
    """Pillow would clip gray images of 16 bits, and mmseg keeps 8 bits of labels."""
    for name, value in (('deep', 300), ('fits', 255)):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((4, 4), value, np.uint16))
    deep, fits = str(tmp_path / 'deep.png'), str(tmp_path / 'fits.png')
    with pytest.raises(InputError, match=r'deep.png contains labels from 300 to 300; labels must be 0 to 255'):
        pipeline()(dict(seg_map_path=deep))
    assert pipeline(seen=1)(dict(seg_map_path=fits))['seen'] == 1
    loading = NamingPipeline(Compose([mmcv.transforms.LoadImageFromFile(imdecode_backend='pillow')]))
    with pytest.raises(InputError, match=r'deep.png has more than 8 bits per pixel \(mode I;16\); convert it to 8 bits'):
        loading(dict(img_path=deep))
    # OpenCV scales the values to 8 bits.
    assert NamingPipeline(Compose([mmcv.transforms.LoadImageFromFile()]))(dict(img_path=deep))['img'].max() == 300 // 256


def test_a_value_error_names_only_a_broken_file(images):
    def fail(data):
        raise ValueError('too large')

    with pytest.raises(ValueError, match='^too large$'):
        NamingPipeline(Compose([fail]))(dict(img_path=str(images / 'first.png')))
    with pytest.raises(InputError, match=r'^cannot read .*broken.png: too large$'):
        NamingPipeline(Compose([fail]))(dict(img_path=str(images / 'broken.png')))


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
    """The environment of the only process that torchrun has launched. Its process group, if the test starts one, is destroyed."""
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
    """On a CPU, with gloo, and with DDP around the model."""
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
    # DDP refuses SyncBN on this machine's CPU.
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


def fake_runner(total, batch, processes, hooks=(), loop=None, schedulers=None):
    cfg = Config(dict(train_dataloader=dict(batch_size=batch)))
    if total is not None:
        cfg.total_batch_size = total
    return SimpleNamespace(
        cfg=cfg,
        world_size=processes,
        optim_wrapper=dict(type='OptimWrapper'),
        hooks=list(hooks),
        logger=logging.getLogger(),
        _train_loop=loop or dict(by_epoch=True, max_epochs=3, val_interval=1),
        param_schedulers=schedulers,
    )


@pytest.mark.parametrize('total, batch, processes, steps', [(8, 2, 2, 2), (8, 4, 2, 1), (4096, 64, 8, 8), (6, 3, 1, 2)])
def test_accumulated_iterations_make_the_total_batch_size(total, batch, processes, steps):
    ema = EMAHook(momentum=0.1)
    runner = fake_runner(total, batch, processes, [ema])
    accumulate_gradients(runner)
    assert runner.optim_wrapper['accumulative_counts'] == steps and ema.ema_cfg['interval'] == steps


def test_accumulation_keeps_the_schedule_in_optimizer_steps():
    """On 4 GPUs instead of 8, a training of 160k iterations takes 320k, and its schedule and intervals grow with it."""
    hooks = [CheckpointHook(interval=16000, by_epoch=False), CheckpointHook(interval=2)]
    loop = dict(type='IterBasedTrainLoop', max_iters=160000, val_interval=16000)
    schedulers = [
        dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
        dict(type='MultiStepLR', by_epoch=False, milestones=[10, 20]),
        dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33]),
    ]
    accumulate_gradients(fake_runner(16, 2, 4, hooks, loop, schedulers))
    assert loop == dict(type='IterBasedTrainLoop', max_iters=320000, val_interval=32000)
    assert (schedulers[0]['begin'], schedulers[0]['end'], schedulers[0]['start_factor']) == (0, 3000, 1e-6)
    assert schedulers[1]['milestones'] == [20, 40] and schedulers[2]['milestones'] == [27, 33] and schedulers[2]['end'] == 36
    assert [hook.interval for hook in hooks] == [32000, 2]
    loop = dict(by_epoch=True, max_epochs=36, val_interval=1)
    one = dict(type='LinearLR', by_epoch=False, end=1000)
    accumulate_gradients(fake_runner(16, 2, 4, (), loop, one))
    assert loop == dict(by_epoch=True, max_epochs=36, val_interval=1) and one['end'] == 2000


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


def test_resuming_with_another_number_of_images_per_iteration_is_an_error(tmp_path):
    tiny_runner.runner(tmp_path, epochs=1).train()
    runner = tiny_runner.runner(tmp_path, epochs=2, resume=True)
    runner._train_dataloader['batch_size'] = 2
    with pytest.raises(InputError, match=r'had 1 images per iteration, and this run has 2 \(1 processes x batch size 2\)'):
        runner.train()
    tiny_runner.runner(tmp_path, epochs=2, resume=True).train()
    assert (tmp_path / 'epoch_2.pth').exists()
