"""Test a checkpoint with the metrics of a config."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.runner import Runner

from mmpelk.utils.errors import InputError

from .preflight import check_checkpoint, check_data
from .runner import build_runner


def test(
    cfg: Config, checkpoint: str, tta: bool = False, show_dir: str | None = None, out: str | None = None
) -> dict[str, float]:
    """Check the data and the checkpoint, and test the model.

    Args:
        cfg: The config, as :func:`mmpelk.engine.config.load_config` returns it.
        checkpoint: The checkpoint file.
        tta: Whether to test with ``tta_model`` and ``tta_pipeline`` of the config.
        show_dir: Folder for drawings of the ground truth and the prediction of each image.
        out: Where to write predictions: a folder of label maps for mmseg, a .pkl file for mmdet and mmpretrain.

    Returns:
        The metrics by name.

    Raises:
        InputError: If the config, the data, or the checkpoint cannot be used.
    """
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise InputError(f'config {cfg.filename} has no {key}')
    cfg.load_from = checkpoint
    cfg.resume = False
    if tta:
        _use_tta(cfg)
    if show_dir:
        _draw_into(cfg, show_dir)
    if out:
        _set_output(cfg, out)

    check_data(cfg, ('test',))
    runner = build_runner(cfg)
    check_checkpoint(checkpoint, runner.model)
    if out:
        _prepare_output(runner, out)
    return runner.test()


def _use_tta(cfg: Config) -> None:
    """Test with test-time augmentation."""
    for key in ('tta_model', 'tta_pipeline'):
        if cfg.get(key) is None:
            raise InputError(f'--tta needs {key} in {cfg.filename}')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _draw_into(cfg: Config, folder: str) -> None:
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


def _set_output(cfg: Config, path: str) -> None:
    """Set mmseg's option for writing predictions. For the other frameworks, check the name of the file."""
    if cfg.default_scope == 'mmseg':
        metrics = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        next((metric for metric in metrics if metric.type == 'IoUMetric'), metrics[0]).output_dir = path
    elif not path.endswith(('.pkl', '.pickle')):
        raise InputError(f'--out must be a .pkl file for {cfg.default_scope}, got {path}')


def _prepare_output(runner: Runner, path: str) -> None:
    """Add the metric that writes the predictions of mmdet or mmpretrain, or create mmseg's folder.

    mmseg creates the folder in the first process only, and the other processes do not wait for it.
    """
    if runner.cfg.default_scope == 'mmdet':
        from mmdet.evaluation import DumpDetResults

        runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=path))
    elif runner.cfg.default_scope == 'mmpretrain':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=path))
    else:
        Path(path).mkdir(parents=True, exist_ok=True)
