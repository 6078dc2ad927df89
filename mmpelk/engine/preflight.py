"""Check data, annotations, and checkpoints before a run. Invalid input raises an InputError with a one-line message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_gather_object
from mmengine.hooks import EMAHook
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from mmpelk.checkpoints import check_fit, check_prefix, model_weights
from mmpelk.datasets.check_coco import check_coco
from mmpelk.sparsity.hooks import SparsityHook
from mmpelk.utils.errors import InputError
from mmpelk.utils.wrappers import unwrap


def check_data(cfg: Config, splits: tuple[str, ...]) -> None:
    """Check that the folders and files of the datasets exist, and that COCO annotations are valid.

    Datasets inside wrappers, such as RepeatDataset and ConcatDataset, are checked too. Remote stores are not checked.

    Args:
        cfg: The config.
        splits: Any of 'train', 'val', and 'test'. Splits without a dataloader are skipped.

    Raises:
        InputError: If a folder or an annotation file is missing, a folder is empty, a COCO file is invalid, or the model and the COCO
            data have different numbers of classes.
    """
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None and not loader.get('dataset'):
            raise InputError(f'{split}_dataloader has no dataset')
        for key, dataset in _datasets(loader.dataset, f'{split}_dataloader.dataset') if loader else ():
            if '://' in (dataset.get('data_root') or ''):
                continue  # a remote store that mmengine's file backends read
            root = Path(dataset.get('data_root') or '')
            hint = f'put the data there or set {key}.data_root'
            prefixes = dataset.get('data_prefix') or dataset.get('split') or {}
            for name, value in ({'img_path': prefixes} if isinstance(prefixes, str) else prefixes).items():
                if not isinstance(value, str):
                    raise InputError(f'{key}.data_prefix.{name} is {value!r}; expected a folder')
                folder = root / value
                if not folder.is_dir():
                    raise InputError(f'data folder {folder} does not exist ({key}.data_prefix.{name}); {hint}')
                if not any(folder.iterdir()):
                    raise InputError(f'data folder {folder} is empty ({key}.data_prefix.{name}); {hint}')
            if dataset.get('ann_file') and not (root / dataset.ann_file).exists():
                raise InputError(f'annotation file {root / dataset.ann_file} does not exist ({key}.ann_file); {hint}')
            if dataset.get('type') == 'CocoDataset':
                classes = dataset.get('metainfo', {}).get('classes') or DATASETS.get('mmdet.CocoDataset').METAINFO['classes']
                check_class_count(cfg.model, len(classes))
                needs_masks = any(step.get('with_mask') for step in dataset.get('pipeline', ()) if isinstance(step, dict))
                check_coco(root / dataset.ann_file, root / dataset.data_prefix.img, classes, needs_masks and split == 'train')


def check_class_count(model: ConfigDict, count: int, key: str = 'model') -> None:
    """Check that every part of a model's config that has a ``num_classes`` has as many classes as the data.

    A region proposal network is skipped, because it only separates objects from background.

    Raises:
        InputError: If a part has a different number of classes. The message names its key.
    """
    for name, value in model.items():
        if name == 'rpn_head':
            continue
        if name == 'num_classes' and value != count:
            raise InputError(f'{key}.num_classes is {value}, but the dataset has {count} classes')
        for index, part in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(part, dict):
                check_class_count(part, count, f'{key}.{name}.{index}' if isinstance(value, list) else f'{key}.{name}')


def check_channels(model: ConfigDict, channels: Sequence[int]) -> None:
    """Check that the neck of a model, or its heads if it has no neck, accept the maps of the backbone.

    Args:
        model: The config of a segmentor, a detector, or a classifier.
        channels: The channels of each map that the backbone returns.

    Raises:
        InputError: If ``in_channels`` differs from the channels of the maps, or ``in_index`` names a map that the backbone does not
            return.
    """
    neck = model.get('neck') or dict(type='GlobalAveragePooling')
    if 'in_channels' not in neck and 'GlobalAveragePooling' not in str(neck):
        return  # it may change the number of channels
    for key in ('neck',) if 'in_channels' in neck else ('decode_head', 'auxiliary_head', 'head'):
        parts = model.get(key)
        for index, part in enumerate(parts if isinstance(parts, list) else [parts] if parts else []):
            name = f'model.{key}.{index}' if isinstance(parts, list) else f'model.{key}'
            given = part.get('in_channels')
            taken = part.get('in_index', -1 if isinstance(given, int) else list(range(len(channels))))
            try:
                expected = channels[taken] if isinstance(taken, int) else [channels[place] for place in taken]
            except IndexError:
                raise InputError(f'{name}.in_index is {taken}, but the backbone returns {len(channels)} maps') from None
            if given is not None and (list(given) if isinstance(given, tuple) else given) != expected:
                raise InputError(
                    f'{name}.in_channels is {given}, but the maps that it takes from the backbone have {expected} channels'
                )


def _datasets(dataset: ConfigDict, key: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield the config of a dataset and its dotted key, or those of the datasets inside if it is a wrapper."""
    if 'dataset' in dataset:
        yield from _datasets(dataset.dataset, f'{key}.dataset')
    elif 'datasets' in dataset:
        for index, inner in enumerate(dataset.datasets):
            yield from _datasets(inner, f'{key}.datasets.{index}')
    else:
        yield key, dataset


def check_checkpoint(
    path: str | Path,
    model: nn.Module,
    strict: bool = True,
    prefix: str = '',
    resize: bool = True,
    checkpoint: dict | None = None,
) -> dict:
    """Check that a checkpoint is safe to load, complete, and fits the model, before the runner loads it.

    Args:
        path: A file or a URL.
        model: The model that the checkpoint is loaded into. It may be wrapped for distributed training or test-time augmentation.
        strict: See :func:`mmpelk.checkpoints.check_fit`.
        prefix: Prefix of the model's weights in the checkpoint.
        resize: Whether kernels of other grids are allowed. They are resized on loading.
        checkpoint: The content of the file, if it has been read already.

    Returns:
        The checkpoint.

    Raises:
        InputError: If the checkpoint cannot be read safely or does not fit the model.
    """
    checkpoint = checkpoint or CheckpointLoader.load_checkpoint(str(path), 'cpu')
    check_prefix(checkpoint, prefix, path)
    check_fit(model_weights(checkpoint, prefix), unwrap(model), path, strict, resize)
    return checkpoint


def check_training_state(checkpoint: dict, path: str | Path, runner: Runner) -> None:
    """Check that a checkpoint to resume from, read from ``path``, has the state of the runner's hooks and schedules.

    mmengine would restart a schedule whose state is missing, and an average whose weights are missing.

    Raises:
        InputError: If the state of a learning rate schedule, the masks of a sparsity hook, or weights of an EMA hook's average are
            missing or belong to another model.
    """
    model = unwrap(runner.model)
    saved, expected = (_count_schedules(value) for value in (checkpoint.get('param_schedulers'), runner.param_schedulers))
    if expected not in (0, saved):
        raise InputError(
            f'checkpoint {path} cannot be resumed from: it has the state of {saved} of the {expected} schedules in param_scheduler; '
            'resume with the config of the run, or start from its weights with --cfg-options load_from=CHECKPOINT'
        )
    for hook in runner.hooks:
        if isinstance(hook, SparsityHook):
            hook.check(checkpoint, model, path)
        if isinstance(hook, EMAHook) and 'ema_state_dict' in checkpoint:
            average = checkpoint['ema_state_dict']
            if not isinstance(average, dict):
                raise InputError(
                    f'checkpoint {path} cannot be resumed from: ema_state_dict is a {type(average).__name__}; expected a dict'
                )
            weights = {
                name.removeprefix('module.'): value
                for name, value in average.items()
                if name != 'steps' and isinstance(value, torch.Tensor)
            }
            check_fit(weights, model, f'{path} (ema_state_dict)', resize=False)


def _count_schedules(schedules: object) -> int:
    """Count schedules, in a config or in a checkpoint. Several optimizers have a dict of them."""
    if isinstance(schedules, dict) and not {'type', 'last_step'} & schedules.keys():
        return sum(map(_count_schedules, schedules.values()))
    return len(schedules) if isinstance(schedules, (list, tuple)) else int(schedules is not None)


def check_processes_agree(checkpoint: dict | None, work_dir: str | Path) -> None:
    """Check that all processes resume from the same iteration, or that none resumes.

    Only the first process saves checkpoints. Without a shared file system, the other machines do not have them.

    Args:
        checkpoint: The checkpoint that this process resumes from, or None.
        work_dir: The folder of the run, for the message.

    Raises:
        InputError: On all processes, if they do not agree.
    """
    steps = all_gather_object(None if checkpoint is None else (checkpoint['meta']['epoch'], checkpoint['meta']['iter']))
    if len(set(steps)) == 1:
        return
    found = [
        f'process {rank} starts from scratch' if step is None else f'process {rank} at iteration {step[1]}'
        for rank, step in enumerate(steps)
    ]
    raise InputError(
        f'the processes do not resume from the same checkpoint ({", ".join(found)}); copy the checkpoint to every machine and pass it '
        f'with --resume CHECKPOINT, or use a work dir that all machines share instead of {work_dir}'
    )
