"""The mmengine Runner that the training and test tools use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapperDict, _ParamScheduler
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import distributed as dist
from torch import nn

from mmpelk.checkpoints.resuming import check_optimizer, check_schedule
from mmpelk.models import PeLK
from mmpelk.utils.errors import TRACEBACK, InputError, build_errors, first_line, is_from_libraries

from . import average_statistics_hook  # noqa: F401  registers the hook that config.py adds
from .config import has_gpu
from .pipeline import NamingPipeline
from .preflight import check_channels, check_class_count
from .randomness import ReproducibleDataset, ReproducibleIterationsHook

# The environment variables that each launcher sets and mmengine reads.
LAUNCHERS = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'MASTER_ADDR'),
)


class NamingRunner(Runner):
    """mmengine's Runner with errors that name the file that cannot be read, and without SyncBN on CPUs.

    A checkpoint from which training cannot be resumed, or an invalid value in the config, raises an InputError. A resumed run draws the
    same random numbers as an uninterrupted one.
    """

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint.

        Raises:
            InputError: If the state of the training run in it is incomplete, or does not fit this run.
        """
        groups = self.param_schedulers.values() if isinstance(self.param_schedulers, dict) else [self.param_schedulers]
        schedules = [item for group in groups if isinstance(group, list) for item in group if isinstance(item, _ParamScheduler)]
        previous = [dict(vars(schedule)) for schedule in schedules]
        try:
            super().resume(filename, *args, **kwargs)
            for index, (schedule, before) in enumerate(zip(schedules, previous, strict=True)):
                check_schedule(vars(schedule), before, filename, index)
            wrappers = self.optim_wrapper
            for wrapper in wrappers.values() if isinstance(wrappers, OptimWrapperDict) else [wrappers]:
                check_optimizer(wrapper.optimizer, filename)
        except (InputError, torch.cuda.OutOfMemoryError):
            raise
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            if not is_from_libraries(error):  # a bug in the user's own hook
                raise
            raise InputError(
                f'checkpoint {filename} cannot be resumed from: {_reason(error)} ({TRACEBACK}=1 shows where)'
            ) from error

    def build_model(self, model: Any) -> nn.Module:
        """Build the model, and check that the other parts fit the backbone."""
        built = super().build_model(model)
        if isinstance(model, dict) and isinstance(getattr(built, 'backbone', None), PeLK):
            check_channels(model, [built.backbone.channels[stage] for stage in built.backbone.out_indices])
        return built

    def build_train_loop(self, loop: Any) -> BaseLoop:
        """Build the training loop, its data loader, and its dataset."""
        return self._build(super().build_train_loop, loop)

    def build_val_loop(self, loop: Any) -> BaseLoop:
        """Build the validation loop, its data loader, and its dataset."""
        return self._build(super().build_val_loop, loop)

    def build_test_loop(self, loop: Any) -> BaseLoop:
        """Build the test loop, its data loader, and its dataset."""
        return self._build(super().build_test_loop, loop)

    def _build(self, build: Callable[[Any], BaseLoop], loop: Any) -> BaseLoop:
        """Build a loop, and check that the model has as many classes as the data."""
        with build_errors():
            built = build(loop)
        classes = getattr(built.dataloader.dataset, 'metainfo', {}).get('classes')
        if classes and self.cfg.get('model'):
            check_class_count(self.cfg.model, len(classes))
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer and its wrapper."""
        with build_errors():
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the schedulers of the learning rate and of other parameters."""
        with build_errors():
            return super().build_param_scheduler(scheduler)

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call a method of all hooks. Before the run, hooks build objects from their options, such as EMAHook's averaged model."""
        with build_errors() if fn_name == 'before_run' else contextlib.nullcontext():
            super().call_hook(fn_name, **kwargs)

    def _init_model_weights(self) -> None:
        with build_errors():
            super()._init_model_weights()

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """Register the hooks, and add the hook that seeds each iteration."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(ReproducibleIterationsHook())

    def load_or_resume(self) -> None:
        """Load or resume as the config says. The number of images per iteration is saved with every checkpoint.

        Raises:
            InputError: If the run to resume had a different number of images per iteration, for example because it had a different
                number of processes. The schedule would then continue from the wrong place.
        """
        super().load_or_resume()
        if not isinstance(self._train_dataloader, dict):
            return
        batch = self._train_dataloader['batch_size']
        images = self.world_size * batch
        saved = self.message_hub.get_info('images_per_iteration', images)
        if saved != images:
            raise InputError(
                f'the run to resume had {saved} images per iteration, and this run has {images} ({self.world_size} processes x batch '
                f'size {batch}); resume with the same number, or start from its weights with --cfg-options load_from=CHECKPOINT'
            )
        self.message_hub.update_info('images_per_iteration', images)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for distributed training. mmengine reverts SyncBN on one process; this does it on several CPU processes."""
        return super().wrap_model(model_wrapper_cfg, model if has_gpu() else revert_sync_batchnorm(model))

    @staticmethod
    def build_dataloader(dataloader, *args, **kwargs):
        """Build a data loader. Each of its pipelines, including those inside dataset wrappers, becomes a NamingPipeline.

        A loader that is built from a config draws its random numbers as :mod:`mmpelk.engine.randomness` describes.

        Raises:
            InputError: If the dataset is empty.
        """
        dataset = dataloader['dataset'] if isinstance(dataloader, dict) else dataloader
        if isinstance(dataloader, dict) and isinstance(dataloader.get('sampler'), dict):
            wrapper = dict(type='mmengine.ReproducibleDataset', dataset=dataset)
            sampler = dict(type='mmengine.PlacedSampler', sampler=dataloader['sampler'])
            dataloader = dict(dataloader, dataset=wrapper, sampler=sampler)
        try:
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        except ValueError as error:
            if 'need at least one array' not in str(error):  # where mmengine stores an empty list of samples
                raise
            raise _empty(dataset) from error
        if not len(loader.dataset):  # mmengine's InfiniteSampler would search for an index forever
            raise _empty(loader.dataset)
        datasets = [loader.dataset.dataset if isinstance(loader.dataset, ReproducibleDataset) else loader.dataset]
        for dataset in datasets:
            datasets += getattr(dataset, 'datasets', [])
            datasets += [dataset.dataset] if hasattr(dataset, 'dataset') else []
            if isinstance(getattr(dataset, 'pipeline', None), Compose):
                dataset.pipeline = NamingPipeline(dataset.pipeline)
        return loader


def _empty(dataset: Any) -> InputError:
    """Return the error for a dataset without samples, or for its config."""
    get = dataset.get if isinstance(dataset, dict) else partial(getattr, dataset)
    folders, suffix = get('data_prefix', 'its folders'), get('img_suffix', None)
    ending = f'ends in {suffix!r}' if suffix else 'has the expected suffix'
    return InputError(f'the dataset is empty: no image in {folders} {ending}, or all of them are filtered out')


def _reason(error: Exception) -> str:
    """Return the message of an error. For a KeyError, the message says which key is missing."""
    return f'it has no {error.args[0]!r}' if isinstance(error, KeyError) and error.args else first_line(error)


def build_runner(cfg: Config) -> Runner:
    """Build the runner and its model. With ``launcher='pytorch'`` on a CPU, start the process group with gloo.

    Raises:
        InputError: If the launcher did not start this process, or an object in the config cannot be built.
    """
    missing = [name for name in LAUNCHERS.get(cfg.launcher, ()) if name not in os.environ]
    if missing:
        raise InputError(
            f'launcher {cfg.launcher} needs the environment variable {missing[0]}, which it sets for each process; start the tool with '
            'the launcher, such as with tools/dist_train.sh'
        )
    if cfg.launcher == 'pytorch' and not has_gpu() and not dist.is_initialized():
        dist.init_process_group('gloo')  # mmengine would select a CUDA device for each process
    with build_errors():
        return RUNNERS.build(cfg) if 'runner_type' in cfg else NamingRunner.from_cfg(cfg)


def adopt_seed(runner: Runner, checkpoint: dict) -> None:
    """Use the seed of a checkpoint to resume from, if the config has none. mmengine does so only after it has built the data loaders."""
    seed = checkpoint['meta'].get('seed')
    if seed is not None and runner._randomness_cfg.get('seed') is None:
        runner._randomness_cfg.update(seed=seed)
        runner.set_randomness(**runner._randomness_cfg)
