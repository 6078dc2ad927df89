"""Check that training can be resumed from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from mmpelk.utils.errors import InputError

# The longest path that Linux can open.
MAX_PATH = 4096
# The entries of an optimizer's state that have the shape of the weight.
MOMENTS = ('exp_avg', 'exp_avg_sq', 'momentum_buffer')


def latest_checkpoint(work_dir: str | Path) -> str | None:
    """Return the checkpoint that ``last_checkpoint`` in a work dir names, or None if there is no such file.

    Raises:
        InputError: If the file does not contain the path of a checkpoint.
    """
    record = Path(work_dir, 'last_checkpoint')
    if not record.is_file():
        return None
    name = record.read_bytes().decode(errors='replace').strip()
    # torch and mmengine can also resume from a folder that DeepSpeed wrote.
    if not name or len(name) > MAX_PATH or not Path(name).exists():
        shown = repr(name if len(name) <= MAX_PATH else f'{name[:60]}...')
        raise InputError(
            f'{record} names {shown} as the latest checkpoint, which does not exist; pass one as --resume CHECKPOINT'
        )
    return name


def check_resumable(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Check that a checkpoint has the state of a training run.

    Args:
        checkpoint: The checkpoint, read from ``path``.
        path: The file, for the message.

    Raises:
        InputError: If it contains only weights, because they were converted, resized, folded, or published, or an entry of the state
            does not have the type that mmengine saves.
    """
    meta, hub = checkpoint.get('meta', {}), checkpoint.get('message_hub')
    missing = [f"meta['{key}']" for key in ('epoch', 'iter') if key not in meta] + ['message_hub'] * (hub is None)
    if missing:
        raise InputError(
            f'checkpoint {path} has no {", ".join(missing)}, so training cannot be resumed from it; '
            'start from its weights with --cfg-options load_from=CHECKPOINT'
        )
    for key in ('epoch', 'iter'):
        _check(type(meta[key]) is int and meta[key] >= 0, path, f"meta['{key}']", meta[key], 'an integer of at least 0')
    seed = meta.get('seed')
    _check(seed is None or type(seed) is int and 0 <= seed < 2**32, path, "meta['seed']", seed, 'an integer from 0 to 2**32 - 1')
    _check(isinstance(hub, dict), path, 'message_hub', hub, 'a dict')
    for key in ('log_scalars', 'runtime_info', 'resumed_keys'):
        _check(isinstance(hub.get(key), dict), path, f"message_hub['{key}']", hub.get(key), 'a dict')
    for key, value in hub['resumed_keys'].items():
        _check(type(value) is bool, path, f"message_hub['resumed_keys']['{key}']", value, 'a bool')
    for key, value in hub['runtime_info'].items():
        if str(key).startswith('best_score'):
            _check(_is_scalar(value), path, f"message_hub['runtime_info']['{key}']", value, 'a number')


def check_optimizer(optimizer: Optimizer, path: str | Path) -> None:
    """Check the state that an optimizer has loaded from a checkpoint.

    Raises:
        InputError: If a moment has another shape than its weight, or an option such as the learning rate is not a number.
    """
    for index, group in enumerate(optimizer.param_groups):
        for key, default in optimizer.defaults.items():
            if _is_scalar(default):
                _check(_is_scalar(group.get(key)), path, f"the optimizer's {key} in group {index}", group.get(key), 'a number')
        for weight in group['params']:
            state = optimizer.state.get(weight, {})
            for key in MOMENTS:
                shape = getattr(state.get(key), 'shape', None)
                if state.get(key) is not None and shape != weight.shape:
                    found = type(state[key]).__name__ if shape is None else tuple(shape)
                    _check(
                        False, path, f"the optimizer's {key} in group {index}", found, f'a tensor of shape {tuple(weight.shape)}'
                    )


def check_schedule(state: Mapping[str, Any], previous: Mapping[str, Any], path: str | Path, index: int) -> None:
    """Check the state that a parameter scheduler has loaded from a checkpoint.

    Args:
        state: The attributes of the scheduler.
        previous: Its attributes before loading.
        path: The file, for the message.
        index: The number of the scheduler, for the message.

    Raises:
        InputError: If an attribute has another type than before, or belongs to another parameter or kind of scheduler.
    """
    for key, old in previous.items():
        value = state.get(key)
        name = f"param_schedulers[{index}]['{key}']"
        if _is_scalar(old):
            _check(_is_scalar(value), path, name, value, 'a number')
        elif isinstance(old, list):
            is_valid = isinstance(value, list) and len(value) == len(old) and all(map(_is_scalar, value))
            _check(is_valid, path, name, value, f'{len(old)} numbers')
        elif isinstance(old, bool):
            _check(type(value) is bool, path, name, value, 'a bool')
        elif isinstance(old, str):
            _check(type(value) is str and value == old, path, name, value, repr(old))


def _is_scalar(value: object) -> bool:
    """Return whether a value is a number, which may be infinite, or a 0-dimensional tensor or array."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) or getattr(value, 'ndim', None) == 0


def _check(is_valid: bool, path: str | Path, name: str, value: object, expected: str) -> None:
    if not is_valid:
        shown = repr(value)
        found = shown if len(shown) <= 60 and '\n' not in shown else f'a {type(value).__name__}'
        raise InputError(f'checkpoint {path} cannot be resumed from: {name} is {found}; expected {expected}')
