"""Test a checkpoint with a config of mmseg, mmdet, or mmpretrain, and print the metrics."""

from __future__ import annotations

import argparse

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmpelk.engine.command_line import add_runner_arguments, run_tool
from mmpelk.engine.config import load_config
from mmpelk.engine.preflight import check_checkpoint, check_data
from mmpelk.engine.runner import build_runner
from mmpelk.utils.errors import InputError


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add_runner_arguments(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--tta', action='store_true', help='test with the tta_model and tta_pipeline of the config')
    parser.add_argument(
        '--show-dir', metavar='DIR', help='draw the ground truth and the prediction of each image into this folder'
    )
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='where to write predictions: a folder of label maps for mmseg, a .pkl file for mmdet and mmpretrain',
    )
    return parser.parse_args()


def use_tta(cfg: Config, config_path: str) -> None:
    """Test with test-time augmentation."""
    for key in ('tta_model', 'tta_pipeline'):
        if cfg.get(key) is None:
            raise InputError(f'--tta needs {key} in {config_path}')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def draw_into(cfg: Config, folder: str) -> None:
    """Draw the ground truth and the prediction of each image into a folder."""
    hook = cfg.default_hooks.get('visualization')
    if hook is None:
        raise InputError('--show-dir needs default_hooks.visualization in the config')
    if cfg.default_scope == 'mmpretrain':
        hook.update(enable=True, interval=1, out_dir=folder)
    elif cfg.default_scope == 'mmdet':
        hook.update(draw=True, interval=1, test_out_dir=folder)
    else:
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = folder


def write_predictions(cfg: Config, path: str) -> None:
    """Prepare the config to write predictions, which is enough for mmseg."""
    if cfg.default_scope == 'mmseg':
        metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        next((metric for metric in metrics if metric.type == 'IoUMetric'), metrics[0]).output_dir = path
    elif not path.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out must be a .pkl file for {cfg.default_scope}, got {path}')


def dump_predictions(runner: Runner, path: str) -> None:
    """Add the metric that writes the predictions of mmdet or mmpretrain."""
    if runner.cfg.default_scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=path))
    elif runner.cfg.default_scope == 'mmpretrain':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=path))


def main() -> None:
    args = parse_args()
    cfg = load_config(args)
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise InputError(f'config {args.config} has no {key}')
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.tta:
        use_tta(cfg, args.config)
    if args.show_dir:
        draw_into(cfg, args.show_dir)
    if args.out:
        write_predictions(cfg, args.out)

    check_data(cfg, ('test',))
    runner = build_runner(cfg)
    check_checkpoint(args.checkpoint, runner.model)
    if args.out:
        dump_predictions(runner, args.out)
    runner.test()


if __name__ == '__main__':
    run_tool(main)
