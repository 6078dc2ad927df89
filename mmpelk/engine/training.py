"""Train the model of a config."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader

from mmpelk.checkpoints.resuming import check_resumable, latest_checkpoint
from mmpelk.utils.errors import InputError

from .accumulation import accumulate_gradients
from .config import enable_amp
from .preflight import check_checkpoint, check_data, check_processes_agree, check_training_state
from .pretrained import initialize_head, prepare_pretrained
from .runner import adopt_seed, build_runner


def train(
    cfg: Config,
    resume: str | None = None,
    pretrained: str | None = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
) -> None:
    """Check the data and the checkpoints, and train the model.

    Args:
        cfg: The config, as :func:`mmpelk.engine.config.load_config` returns it.
        resume: A checkpoint to resume from, or 'auto' for the latest one in the work dir, if there is one.
        pretrained: A checkpoint that the backbone, and a classifier's head if it fits, are initialized from.
        amp: Whether to train with mixed precision.
        auto_scale_lr: Whether mmengine scales the learning rate with the batch size, instead of accumulating gradients to
            ``total_batch_size``.

    Raises:
        InputError: If the config, the data, or a checkpoint cannot be used.
    """
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not cfg.get(key):
            raise InputError(f'config {cfg.filename} has no {key}')
    if amp:
        enable_amp(cfg)
    if auto_scale_lr:
        _scale_learning_rate(cfg)
    if pretrained:
        cfg.model.backbone.init_cfg = ConfigDict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')
    resumed = latest_checkpoint(cfg.work_dir) if resume == 'auto' else resume
    cfg.resume = resumed is not None
    cfg.load_from = resumed or cfg.get('load_from')

    check_data(cfg, ('train', 'val'))
    runner = build_runner(cfg)
    accumulate_gradients(runner)
    checkpoints = {}
    if pretrained:
        checkpoints[pretrained] = CheckpointLoader.load_checkpoint(pretrained, 'cpu')
        initialize_head(runner, pretrained, checkpoints[pretrained])
    prepare_pretrained(runner.model, runner.work_dir, checkpoints)
    checkpoint = None
    if resumed is not None:
        checkpoint = _check_resumed(resumed, runner, is_latest=resume == 'auto')
        adopt_seed(runner, checkpoint)
    elif cfg.get('load_from'):
        check_checkpoint(cfg.load_from, runner.model, strict=False)
    elif cfg.get('fine_tuning') and not cfg.model.backbone.get('init_cfg'):
        raise InputError(f'config {cfg.filename} fine-tunes a trained model; give its checkpoint with --pretrained CHECKPOINT')
    check_processes_agree(checkpoint, cfg.work_dir)
    runner.train()


def _scale_learning_rate(cfg: Config) -> None:
    if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
        raise InputError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {cfg.filename}')
    cfg.auto_scale_lr.enable = True
    cfg.pop('total_batch_size', None)


def _check_resumed(path: str, runner: Runner, is_latest: bool) -> dict:
    """Check a checkpoint to resume from, and return its content."""
    try:
        checkpoint = check_checkpoint(path, runner.model, resize=False)
        check_resumable(checkpoint, path)
        check_training_state(checkpoint, path, runner)
    except InputError as error:
        if not is_latest:
            raise
        raise InputError(
            f"{error} ({runner.work_dir}'s last_checkpoint names this file; pass another as --resume CHECKPOINT)"
        ) from error
    return checkpoint
