"""The mmengine Runner that the training and test tools use."""

from __future__ import annotations

import cv2
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import EMAHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from PIL import Image
from torch import distributed as dist

from mmpelk.utils.errors import InputError, build_errors, first_line

from .config import has_gpu


class NamingPipeline(Compose):
    """A data pipeline that names the file when it cannot be read.

    Args:
        pipeline: The pipeline whose transforms are run.
    """

    def __init__(self, pipeline: Compose) -> None:
        self.transforms = pipeline.transforms

    def __call__(self, data: dict) -> dict | None:
        paths = [data[key] for key in ('img_path', 'seg_map_path') if data.get(key)]
        try:
            return super().__call__(data)
        except (OSError, AssertionError, SyntaxError, cv2.error) as error:  # Pillow reports a broken PNG as a SyntaxError
            unreadable = [path for path in paths if not _is_readable(path)]
            raise InputError(f'cannot read {" or ".join(unreadable or paths)}: {first_line(error)}') from error


def _is_readable(path: str) -> bool:
    """Return whether Pillow can decode an image file."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


class NamingRunner(Runner):
    """mmengine's Runner with data sets that name a file that cannot be read."""

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

    EMA hooks then average once per optimizer step.

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
    runner.logger.info(
        f'batch {total} = {runner.world_size} processes x {batch} images x {steps} iterations of accumulated gradients'
    )
