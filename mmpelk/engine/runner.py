"""The mmengine Runner that the training and test tools use."""

from __future__ import annotations

from typing import Any

import cv2
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.dist import all_reduce_params
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image
from torch import distributed as dist
from torch import nn

from mmpelk.checkpoints import model_weights
from mmpelk.checkpoints.resuming import check_optimizer
from mmpelk.utils.errors import TRACEBACK, InputError, build_errors, first_line
from mmpelk.utils.pillow import FORMATS, forbid_ghostscript

from .config import has_gpu
from .preflight import unwrap


class NamingPipeline(Compose):
    """A data pipeline that names the file when it cannot be read, and never decodes EPS images with Ghostscript.

    Args:
        pipeline: The pipeline whose transforms are run.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        forbid_ghostscript()  # in each worker too, because a spawned process does not inherit it
        paths = [data[key] for key in ('img_path', 'seg_map_path') if data.get(key)]
        try:
            return super().__call__(data)
        except (OSError, AssertionError, SyntaxError, cv2.error) as error:  # Pillow reports a broken PNG as a SyntaxError
            unreadable = [path for path in paths if not _is_readable(path)]
            raise InputError(f'cannot read {" or ".join(unreadable or paths)}: {first_line(error)}') from error


def _is_readable(path: str) -> bool:
    """Return whether Pillow can decode an image file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


@HOOKS.register_module()
class AverageStatisticsHook(Hook):
    """Average the model's buffers, such as BatchNorm's running statistics, over the processes after each training iteration.

    Training on several CPU processes needs it, because SyncBN runs on GPUs only: all processes validate, average (EMA), and save the
    same statistics.
    """

    priority = 'HIGH'  # before EMAHook

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Average the buffers of a floating-point type."""
        all_reduce_params([buffer for buffer in runner.model.buffers() if buffer.is_floating_point()], op='mean')


class NamingRunner(Runner):
    """mmengine's Runner with data sets that name a file that cannot be read, and without SyncBN on CPUs.

    A checkpoint that training cannot be resumed from ends in an InputError.
    """

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a checkpoint.

        Raises:
            InputError: If the state of the training run in it is incomplete, or does not fit this run.
        """
        try:
            super().resume(filename, *args, **kwargs)
            wrappers = self.optim_wrapper
            for wrapper in wrappers.values() if isinstance(wrappers, OptimWrapperDict) else [wrappers]:
                check_optimizer(wrapper.optimizer, filename)
        except (InputError, torch.cuda.OutOfMemoryError):
            raise
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f'checkpoint {filename} cannot be resumed from: {_reason(error)} ({TRACEBACK}=1 shows where)'
            ) from error

    def load_or_resume(self) -> None:
        """Load or resume as the config says. The number of images per iteration is saved with every checkpoint.

        Raises:
            InputError: If the run to resume had another number of images per iteration, as with another number of processes. Its count
                of iterations would then stand at another place of the schedule.
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
        """Build a data loader. Every pipeline in it, also inside of dataset wrappers, becomes a NamingPipeline."""
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        datasets = [loader.dataset]
        for dataset in datasets:
            datasets += getattr(dataset, 'datasets', [])
            datasets += [dataset.dataset] if hasattr(dataset, 'dataset') else []
            if isinstance(getattr(dataset, 'pipeline', None), Compose):
                dataset.pipeline = NamingPipeline(dataset.pipeline)
        return loader


def _reason(error: Exception) -> str:
    """Return the message of an error, or what is missing if it is a key."""
    return f'it has no {error.args[0]!r}' if isinstance(error, KeyError) and error.args else first_line(error)


def build_runner(cfg: Config) -> Runner:
    """Build the runner and its model. With ``launcher='pytorch'`` on a CPU, start the process group with gloo.

    Raises:
        InputError: If an object in the config cannot be built.
    """
    if cfg.launcher == 'pytorch' and not has_gpu() and not dist.is_initialized():
        dist.init_process_group('gloo')  # mmengine would select a CUDA device for each process
    with build_errors():
        return RUNNERS.build(cfg) if 'runner_type' in cfg else NamingRunner.from_cfg(cfg)


def accumulate_gradients(runner: Runner) -> None:
    """Accumulate gradients over several iterations to reach the config's ``total_batch_size``, if it has one.

    EMA hooks then average once per optimizer step. What the config counts in iterations (the length of an iteration-based training, the
    learning rate's schedule, the intervals of validation and checkpoints) is multiplied, so that it stays the same in optimizer steps
    and in images.

    Raises:
        InputError: If the total batch size is not a multiple of the number of processes times the batch size.
    """
    total = runner.cfg.get('total_batch_size')
    if total is None:
        return
    batch = runner.cfg.train_dataloader.batch_size
    steps, rest = divmod(total, runner.world_size * batch)
    if rest or steps < 1:
        raise InputError(
            f'total_batch_size={total} is not a multiple of {runner.world_size} processes x batch size {batch}; '
            'change total_batch_size or train_dataloader.batch_size'
        )
    runner.optim_wrapper['accumulative_counts'] = steps
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            hook.ema_cfg['interval'] = steps
        if isinstance(hook, CheckpointHook) and not hook.by_epoch:
            hook.interval *= steps
    if 'max_iters' in runner._train_loop:
        _multiply(runner._train_loop, ('max_iters', 'val_begin', 'val_interval'), steps)
    schedulers = runner.param_schedulers or []
    for scheduler in [schedulers] if isinstance(schedulers, dict) else schedulers:
        if not scheduler.get('by_epoch', True):
            _multiply(scheduler, ('begin', 'end', 'milestones', 'step_size', 'T_max'), steps)
    runner.logger.info(
        f'batch {total} = {runner.world_size} processes x {batch} images x {steps} iterations of accumulated gradients'
    )


def _multiply(options: dict, names: tuple[str, ...], factor: int) -> None:
    """Multiply the options with the given names, numbers or lists of numbers, if they are set."""
    for name in names:
        value = options.get(name)
        if value is not None:
            options[name] = [item * factor for item in value] if isinstance(value, list) else value * factor


def initialize_head(runner: Runner, path: str) -> None:
    """Let a classifier's head start from a checkpoint too, if the checkpoint has a head of the same shape.

    Args:
        runner: A runner whose model has not been initialized yet.
        path: The checkpoint.
    """
    head = getattr(unwrap(runner.model), 'head', None)
    if not isinstance(head, nn.Module):
        return
    weights = model_weights(CheckpointLoader.load_checkpoint(path, 'cpu'), 'head.')
    fits = {name: value.shape for name, value in weights.items()} == {
        name: value.shape for name, value in head.state_dict().items()
    }
    if fits:
        head.init_cfg = dict(type='Pretrained', checkpoint=path, prefix='head.')
    runner.logger.info(
        f'the head starts from {path if fits else "random weights, because the checkpoint has no head of its shape"}'
    )
