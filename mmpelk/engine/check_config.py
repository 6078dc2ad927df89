"""Check the types and values of a config's settings, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mmengine.config import Config

from mmpelk.utils.arguments import is_int, is_number
from mmpelk.utils.errors import InputError


class Rule(NamedTuple):
    """A requirement for the settings with certain keys.

    Attributes:
        keys: A regular expression for dotted keys.
        is_valid: Whether a value is valid.
        expected: A description of the valid values, for the message.
    """

    keys: str
    is_valid: Callable[[Any], bool]
    expected: str


def _is(*types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, types)


NONE = type(None)
# A dataset, which may be inside wrappers such as RepeatDataset and ConcatDataset.
DATASET = r'(train|val|test)_dataloader\.dataset(\.dataset|\.datasets\.\d+)*'
# The settings that OpenMMLab's runner and our tools read before anything is built from them. Other values are checked by the classes
# that receive them.
RULES = [
    Rule(r'model|(train|val|test)_dataloader\.sampler|env_cfg|randomness', _is(dict), 'a dict'),
    Rule(r'model\.backbone|optim_wrapper\.optimizer', _is(dict), 'a dict'),
    Rule(r'(train|val|test)_(dataloader|cfg)|optim_wrapper|default_hooks', _is(dict, NONE), 'a dict or None'),
    Rule(r'optim_wrapper\.paramwise_cfg|visualizer|log_processor|auto_scale_lr', _is(dict, NONE), 'a dict or None'),
    Rule(r'(model\.)?data_preprocessor|tta_model|default_hooks\.\w+', _is(dict, NONE), 'a dict or None'),
    Rule(r'model(\.\w+)*\.init_cfg', _is(dict, list, NONE), 'a dict, a list of dicts, or None'),
    Rule(r'model(\.\w+)*\.init_cfg\.\d+', _is(dict), 'a dict'),
    Rule(r'(val|test)_evaluator|param_scheduler', _is(dict, list, NONE), 'a dict, a list of dicts, or None'),
    Rule(r'custom_hooks|tta_pipeline', _is(list, NONE), 'a list of dicts or None'),
    Rule(rf'{DATASET}|{DATASET}\.metainfo', _is(dict), 'a dict'),
    Rule(rf'{DATASET}\.(data_root|ann_file)', _is(str, NONE), 'a path'),
    Rule(rf'{DATASET}\.(data_prefix|split)', _is(str, dict, NONE), 'a folder or a dict of folders'),
    Rule(rf'{DATASET}\.metainfo\.classes', _is(list, tuple, str), 'a list of names'),
    Rule(rf'{DATASET}\.(pipeline|datasets)', _is(list), 'a list of dicts'),
    Rule(r'(param_scheduler|custom_hooks|(val|test)_evaluator)\.\d+', _is(dict), 'a dict'),
    Rule(r'default_scope|work_dir|load_from', _is(str, NONE), 'text or None'),
    Rule(r'(train|val|test)_dataloader\.batch_size', lambda v: is_int(v) and v >= 1, 'an integer of at least 1'),
    Rule(r'(train|val|test)_dataloader\.num_workers', lambda v: is_int(v) and v >= 0, 'an integer of at least 0'),
    Rule(r'train_cfg\.(max_epochs|max_iters|val_interval)', lambda v: is_int(v) and v >= 1, 'an integer of at least 1'),
    Rule(r'optim_wrapper\.optimizer\.(lr|weight_decay)', lambda v: is_number(v) and v >= 0, 'a number of at least 0'),
    Rule(r'optim_wrapper\.accumulative_counts', lambda v: is_int(v) and v >= 1, 'an integer of at least 1'),
    Rule(r'total_batch_size', lambda v: v is None or is_int(v) and v >= 1, 'an integer of at least 1'),
    Rule(r'randomness\.seed', lambda v: v is None or is_int(v) and 0 <= v < 2**32, 'None or an integer from 0 to 2**32 - 1'),
    Rule(r'default_hooks\.checkpoint\.interval', lambda v: is_int(v) and (v >= 1 or v == -1), '-1 or an integer of at least 1'),
    Rule(r'default_hooks\.logger\.interval', lambda v: is_int(v) and v >= 1, 'an integer of at least 1'),
]


def check_settings(cfg: Config, path: str) -> None:
    """Check the settings of a config that was read from ``path``.

    Raises:
        InputError: If a setting has a type or value that the runner cannot use. The message names its key.
    """
    for key, value in _settings(cfg):
        for rule in RULES:
            if re.fullmatch(rule.keys, key) and not rule.is_valid(value):
                raise InputError(f'config {path}: {key} is {value!r}; expected {rule.expected}')


def _settings(values: dict, prefix: str = '') -> Iterator[tuple[str, Any]]:
    """Yield each setting with its dotted key, outer settings first."""
    for key, value in values.items():
        yield f'{prefix}{key}', value
        if isinstance(value, dict):
            yield from _settings(value, f'{prefix}{key}.')
        elif isinstance(value, (list, tuple)):
            yield from _settings(dict(enumerate(value)), f'{prefix}{key}.')
