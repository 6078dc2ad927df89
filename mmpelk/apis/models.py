"""Build models of mmseg, mmdet, and mmpretrain from a config and a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.infer import BaseInferencer
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import Tensor, nn

from mmpelk.checkpoints import check_fit, check_prefix, model_weights, read_checkpoint
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError, build_errors, first_line
from mmpelk.utils.torchvision_compat import declare_missing_operators

# The visualizers of the frameworks, for configs without one.
VISUALIZERS = dict(mmseg='SegLocalVisualizer', mmdet='DetLocalVisualizer', mmpretrain='UniversalVisualizer')


def init_model(config: str | Path | Config, checkpoint: str | Path, device: str | None = None) -> BaseInferencer:
    """Build the inferencer of the config's framework with the weights of a checkpoint.

    Args:
        config: A config file, or a config that was read from one.
        checkpoint: A checkpoint file.
        device: 'cpu', 'cuda:0', and so on. Defaults to the GPU if there is one.

    Returns:
        An MMSegInferencer, a DetInferencer, or an ImageClassificationInferencer. It can also be called on images directly.

    Raises:
        InputError: If the config or the checkpoint is missing, broken, or unsafe, if they do not match, or if neither names the
            classes.
    """
    cfg = copy.deepcopy(config) if isinstance(config, Config) else read_config(str(config))
    dataset = (cfg.get('test_dataloader') or {}).get('dataset')
    if not dataset or 'pipeline' not in dataset:
        raise InputError('the config has no test_dataloader.dataset.pipeline, which defines how to prepare an image')
    cfg.setdefault('visualizer', dict(type=VISUALIZERS[framework(cfg)]))
    model = load_model(cfg, checkpoint, device)
    with build_errors():
        inferencer = _build_inferencer(cfg, model)
    inferencer.cfg = cfg
    return inferencer


def _build_inferencer(cfg: Config, model: nn.Module) -> BaseInferencer:
    """Build the framework's inferencer around a loaded model."""
    device = str(next(model.parameters()).device)
    if cfg.default_scope == 'mmpretrain':
        from mmpretrain.apis import ImageClassificationInferencer

        model._config, model._dataset_meta = cfg, model.dataset_meta
        return ImageClassificationInferencer(model, device=device)
    if cfg.default_scope == 'mmseg':
        from mmseg.apis import MMSegInferencer as Inferencer
    else:
        from mmdet.apis import DetInferencer as Inferencer

    class LoadedInferencer(Inferencer):
        def _init_model(self, cfg, weights, device='cpu'):
            return model  # do not build it, or read the checkpoint, a second time

    return LoadedInferencer(cfg, device=device)


def load_model(cfg: Config, checkpoint_path: str | Path, device: str | None = None) -> nn.Module:
    """Build the model of a config with the weights of a checkpoint, in eval mode, with ``dataset_meta`` set.

    Raises:
        InputError: If the model cannot be built, if the device cannot be used, if the checkpoint is missing, broken, unsafe, or of
            another model, or if neither the checkpoint nor the config names the classes.
    """
    device = usable_device(device)
    declare_missing_operators()
    init_default_scope(framework(cfg))
    checkpoint = read_checkpoint(checkpoint_path)
    with build_errors():
        model = MODELS.build(cfg.model)
    weights = model_weights(checkpoint)
    check_fit(weights, model, checkpoint_path)
    model.load_state_dict(weights)
    model.dataset_meta = dataset_meta(cfg, checkpoint, checkpoint_path)
    return model.to(device).eval()


def load_backbone(cfg: Config, checkpoint: str | Path | None) -> nn.Module:
    """Build the backbone of a config.

    Args:
        cfg: The config.
        checkpoint: Checkpoint of the config's model. If it is None, the backbone is initialized as for training.

    Raises:
        InputError: If the backbone cannot be built, or the checkpoint is missing, broken, unsafe, or does not match it.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with build_errors():
        backbone = MODELS.build(cfg.model.backbone)
    if checkpoint:
        weights = read_checkpoint(checkpoint)
        check_prefix(weights, 'backbone.', checkpoint)
        weights = model_weights(weights, 'backbone.')
        check_fit(weights, backbone, checkpoint)
        backbone.load_state_dict(weights)
    else:
        backbone.init_weights()
    return backbone


def framework(cfg: Config) -> str:
    """Return the framework of a config: 'mmseg', 'mmdet', or 'mmpretrain'.

    Raises:
        InputError: If ``default_scope`` is none of them.
    """
    scope = cfg.get('default_scope')
    if scope not in VISUALIZERS:
        raise InputError(f'the default_scope of the config must be one of {tuple(VISUALIZERS)}, got {scope!r}')
    return scope


def usable_device(device: str | None) -> str:
    """Return ``device`` if torch can use it. None selects the GPU if there is one.

    Raises:
        InputError: If torch cannot use the device.
    """
    device = get_device() if device is None else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f'device {device!r} cannot be used: {first_line(error)}') from error
    return device


def normalization(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Return the mean and standard deviation of the model's preprocessor, on the scale from 0 to 255, each of shape (3, 1, 1).

    They are 0 and 1 if the preprocessor has none.
    """
    preprocessor = model.data_preprocessor
    return getattr(preprocessor, 'mean', torch.zeros(3, 1, 1)), getattr(preprocessor, 'std', torch.ones(3, 1, 1))


def dataset_meta(cfg: Config, checkpoint: dict, path: str | Path) -> dict:
    """Return the classes and the palette from the checkpoint that was read from ``path``, or else from the config's test dataset.

    If there is no palette, the colors are random but the same in each call.

    Raises:
        InputError: If neither names the classes, or the checkpoint's classes are not a list of names.
    """
    stored = checkpoint.get('meta', {}).get('dataset_meta')
    classes = stored.get('classes') if isinstance(stored, dict) else stored
    is_named = isinstance(classes, (str, list, tuple)) and all(isinstance(name, str) for name in classes)
    if classes is not None and not (is_named and isinstance(stored, dict)):
        raise InputError(f"checkpoint {path} has {classes!r} as the classes in meta['dataset_meta']; expected a list of names")
    meta = stored or _dataset_meta((cfg.get('test_dataloader') or {}).get('dataset'))
    if not meta or meta.get('classes') is None:
        raise InputError(f'neither checkpoint {path} (meta.dataset_meta) nor the config names the classes')
    if meta.get('palette') is None:
        palette = np.random.default_rng(0).integers(0, 256, (len(meta['classes']), 3)).tolist()
        meta = dict(meta, palette=palette)
    return meta


def _dataset_meta(dataset: ConfigDict | None) -> dict | None:
    """Return the classes and the palette from a dataset's config, or else from its class."""
    while dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    if not dataset:
        return None
    if 'metainfo' in dataset:
        return dataset.metainfo
    with DATASETS.switch_scope_and_registry(None) as registry:
        return getattr(registry.get(dataset.type), 'METAINFO', None)
