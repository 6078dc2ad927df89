"""Train a model with a config of mmseg, mmdet, or mmpretrain."""

from __future__ import annotations

import argparse

from mmengine.config import ConfigDict
from mmengine.runner.checkpoint import CheckpointLoader

from mmpelk.checkpoints.resuming import check_resumable, latest_checkpoint
from mmpelk.engine.command_line import add_runner_arguments, run_tool
from mmpelk.engine.config import enable_amp, load_config
from mmpelk.engine.preflight import check_checkpoint, check_data, check_pretrained, check_processes_agree, check_training_state
from mmpelk.engine.runner import accumulate_gradients, adopt_seed, build_runner, initialize_head
from mmpelk.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_runner_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or without a value, from the latest one in the work dir',
    )
    parser.add_argument(
        '--pretrained',
        metavar='CHECKPOINT',
        help='initialize the backbone from this checkpoint: its backbone.* weights, or a ConvNeXt of a package that '
        "tools/convert_checkpoint.py knows. A classifier's head is loaded too if it fits",
    )
    parser.add_argument('--amp', action='store_true', help='train with mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size, instead of accumulating gradients to total_batch_size',
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if not cfg.get(key):
            raise InputError(f'config {args.config} has no {key}')
    if args.amp:
        enable_amp(cfg)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise InputError(f'--auto-scale-lr needs auto_scale_lr.base_batch_size in {args.config}')
        cfg.auto_scale_lr.enable = True
        cfg.pop('total_batch_size', None)
    if args.pretrained:
        cfg.model.backbone.init_cfg = ConfigDict(type='Pretrained', checkpoint=args.pretrained, prefix='backbone.')
    resumed = latest_checkpoint(cfg.work_dir) if args.resume == 'auto' else args.resume
    cfg.resume = resumed is not None
    cfg.load_from = resumed or cfg.get('load_from')

    check_data(cfg, ('train', 'val'))
    runner = build_runner(cfg)
    accumulate_gradients(runner)
    checkpoints = {}
    if args.pretrained:
        checkpoints[args.pretrained] = CheckpointLoader.load_checkpoint(args.pretrained, 'cpu')
        initialize_head(runner, args.pretrained, checkpoints[args.pretrained])
    check_pretrained(runner.model, runner.work_dir, checkpoints)
    checkpoint = None
    if resumed is not None:
        try:
            checkpoint = check_checkpoint(resumed, runner.model, resize=False)
            check_resumable(checkpoint, resumed)
            check_training_state(checkpoint, resumed, runner)
        except InputError as error:
            if args.resume != 'auto':
                raise
            raise InputError(
                f"{error} ({cfg.work_dir}'s last_checkpoint names this file; pass another as --resume CHECKPOINT)"
            ) from error
        adopt_seed(runner, checkpoint)
    elif cfg.get('load_from'):
        check_checkpoint(cfg.load_from, runner.model, strict=False)
    elif cfg.get('fine_tuning') and not cfg.model.backbone.get('init_cfg'):
        raise InputError(f'config {args.config} fine-tunes a trained model; give its checkpoint with --pretrained CHECKPOINT')
    check_processes_agree(checkpoint, cfg.work_dir)
    runner.train()


if __name__ == '__main__':
    run_tool(main)
