"""Command lines with invalid input. Each must end with a one-line error that says what is wrong, and leave no files behind.

The tools run in processes that are forked after all imports. Each has its own folder with a valid config and a valid checkpoint of each
framework, and data. A case damages one of them or passes an invalid option.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import re
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmengine
import numpy as np
import torch
from conftest import CONFIGS, TOOLS, save_untrained
from forks import Outcome, run_forked
from PIL import Image, PngImagePlugin

TRAINING = """
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False)
"""
BACKBONE = 'backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 16, 16, 16)), kernel_sizes=(21, 15, 13, 7))'
SEG = f"""
_base_ = '{CONFIGS}/demo/upernet_pelk_atto_digits.py'
model = dict({BACKBONE}, decode_head=dict(in_channels=[10, 20, 20, 20], channels=8), auxiliary_head=dict(in_channels=20, channels=8))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
{TRAINING}"""
CLS = f"""
_base_ = '{CONFIGS}/demo/pelk_atto_digits_cls.py'
model = dict({BACKBONE}, head=dict(in_channels=20))
total_batch_size = 4
train_cfg = dict(max_epochs=2, val_interval=2)
{TRAINING}
train_dataloader['dataset'] = val_dataloader['dataset'] = dict(indices=8)
"""
DET = f"""
_base_ = '{CONFIGS}/demo/cascade_mask_rcnn_pelk_atto_digits.py'
model = dict({BACKBONE}, neck=dict(in_channels=[10, 20, 20, 20]))
{TRAINING}"""
CONFIG_OF = dict(seg=SEG, cls=CLS, det=DET)
PICTURE = 'data/digit_scenes/images/validation/validation_0000.jpg'
DIGIT = 'data/digits/val/3/3_0000.jpg'

Prepare = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A command line that must fail.

    Attributes:
        tool: The file in tools/.
        args: Its arguments.
        says: A regular expression that its message must match.
        prepare: Damages the files in the folder of the case.
        outputs: Paths that must not exist afterward.
        file_size: The largest file in bytes that the tool can write.
        about: What is wrong, if the command line does not show it.
    """

    tool: str
    args: tuple
    says: str = ''
    prepare: Prepare = lambda folder: None
    outputs: tuple[str, ...] = ()
    file_size: int | None = None
    about: str = ''

    @property
    def name(self) -> str:
        return ' '.join(map(str, (self.tool, *self.args)))[:300] + (f' ({self.about})' if self.about else '')


def make_home(home: Path) -> None:
    """Write data, and a config and a checkpoint of each framework: ``{seg,cls,det}.{py,pth}``, and one to resume from, ``run.pth``."""
    from mmpelk.datasets import make_digit_scenes, make_digits

    make_digit_scenes(home / 'data/digit_scenes', 8, 2)
    make_digits(home / 'data/digits', size=32, copies=1)

    def save_all() -> None:
        for name in CONFIG_OF:
            save_model(home, name)

    for function in (save_all, lambda: run_tool('train.py', ['cls.py', '--work-dir', 'run'], home)):
        outcome = run_forked(function)
        assert outcome.code == 0, outcome.stderr[-3000:]
    shutil.move(home / 'run/epoch_2.pth', home / 'run.pth')
    shutil.rmtree(home / 'run')


def save_model(home: Path, name: str) -> tuple[Path, Path]:
    """Write a config and a checkpoint of its untrained model, and return their paths."""
    config, checkpoint = home / f'{name}.py', home / f'{name}.pth'
    config.write_text(CONFIG_OF[name])
    save_untrained(config, checkpoint)
    return config, checkpoint


def preload() -> None:
    """Import what the tools import, so that forked processes start at once."""
    import imports_before_fork  # noqa: F401

    for tool in sorted(TOOLS.glob('*.py')):
        try:
            runpy.run_path(str(tool), run_name='imports_before_fork')
        except ImportError:
            continue


def run_tool(tool: str, args: Iterable, folder: Path) -> None:
    os.chdir(folder)
    sys.argv = [tool, *map(str, args)]
    runpy.run_path(str(TOOLS / tool), run_name='__main__')


def run(cases: Iterable[Case], home: Path) -> Iterator[tuple[str, str | None]]:
    """Run cases.

    Yields:
        The command line, and what is wrong with how it ended, or None.
    """
    for case in cases:
        with tempfile.TemporaryDirectory(dir=home) as name:
            folder = Path(name)
            for path in home.glob('*.p*'):
                shutil.copy(path, folder)
            (folder / 'data').symlink_to(home / 'data')
            case.prepare(folder)
            before = set(_files(folder))
            outcome = run_forked(lambda case=case, folder=folder: run_tool(case.tool, case.args, folder), 200, case.file_size)
            yield case.name, fault(case, outcome, folder, set(_files(folder)) - before)


def _files(folder: Path) -> Iterator[str]:
    return (os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)


def fault(case: Case, outcome: Outcome, folder: Path, new: set[str]) -> str | None:
    """Return what is wrong with how a case ended, or None."""
    lines = outcome.stderr.strip().splitlines() or ['']
    is_usage = outcome.code == 2 and ': error: ' in lines[-1]
    if 'Traceback (most recent call last)' in outcome.stderr:
        return f'traceback: {lines[-1][:300]} at {(re.findall("File .*", outcome.stderr) or ["?"])[-1]}'
    if not is_usage and (outcome.code != 1 or not lines[-1].startswith('error: ')):
        return f'exit code {outcome.code}: {lines[-1][:300]}'
    if not re.search(case.says, lines[-1]):
        return f'message {lines[-1][:300]!r} does not say {case.says!r}'
    if 'unfinished' in lines[-1]:
        return f'message {lines[-1][:300]!r} names a temporary file'
    left = [path for path in new if '.unfinished' in path or '-unfinished' in path]
    left += [output for output in case.outputs if os.path.lexists(folder / output)]
    return f'left {left}' if left else None


def all_cases() -> list[Case]:
    """Return all cases, grouped by kind."""
    return [
        *checkpoint_cases(),
        *config_cases(),
        *setting_cases(),
        *backbone_cases(),
        *data_cases(),
        *file_cases(),
        *tool_cases(),
    ]


# Checkpoints


def _pickled(function: Callable, *args: object) -> object:
    class Hostile:
        def __reduce__(self):
            return function, args

    return Hostile()


def _changed(change: Callable[[dict], object]) -> Callable[[Path, bytes], None]:
    """Return a function that writes a checkpoint with a change to its content."""

    def write(path: Path, content: bytes) -> None:
        path.write_bytes(content)
        checkpoint = torch.load(path, weights_only=False)
        result = change(checkpoint)
        torch.save(checkpoint if result is None else result, path)

    return write


def _first_weight(value: object) -> Callable[[dict], object]:
    def change(checkpoint: dict) -> None:
        name = next(iter(checkpoint['state_dict']))
        checkpoint['state_dict'][name] = value

    return change


CHECKPOINTS: dict[str, Callable[[Path, bytes], object]] = {
    'missing': lambda path, content: path.unlink(missing_ok=True),
    'folder': lambda path, content: (path.unlink(missing_ok=True), path.mkdir()),
    'empty': lambda path, content: path.write_bytes(b''),
    'half': lambda path, content: path.write_bytes(content[: len(content) // 2]),
    'text': lambda path, content: path.write_text('weights'),
    'picture': lambda path, content: (
        cv2.imwrite(str(path.with_suffix('.png')), np.zeros((9, 9, 3), np.uint8)) and path.with_suffix('.png').rename(path)
    ),
    'code': _changed(lambda checkpoint: checkpoint.update(extra=_pickled(os.mkdir, 'made'))),
    'list': _changed(lambda checkpoint: [1, 2]),
    'tensor': _changed(lambda checkpoint: torch.zeros(3)),
    'no weights': _changed(lambda checkpoint: checkpoint.update(state_dict={})),
    'weights of another type': _changed(lambda checkpoint: checkpoint.update(state_dict=[torch.zeros(3)])),
    'numbers as weights': _changed(lambda checkpoint: checkpoint.update(state_dict=dict.fromkeys(checkpoint['state_dict'], 1))),
    'weights without names': _changed(lambda checkpoint: checkpoint.update(state_dict={1: torch.zeros(3)})),
    'another model': _changed(lambda checkpoint: checkpoint.update(state_dict={'conv.weight': torch.zeros(3, 3)})),
    'meta of another type': _changed(lambda checkpoint: checkpoint.update(meta=[1])),
}
# Damage that only matters to tools that build a model. The other tools can read these checkpoints.
FOR_MODELS: dict[str, Callable[[Path, bytes], object]] = {
    'first weight of another shape': _changed(_first_weight(torch.zeros(2, 2))),
    'half grids of another type': _changed(
        lambda checkpoint: checkpoint['state_dict'].update(
            {name: value.float() for name, value in checkpoint['state_dict'].items() if name.endswith('half_grid')}
        )
    ),
    'negative half grids': _changed(
        lambda checkpoint: checkpoint['state_dict'].update(
            {name: -value for name, value in checkpoint['state_dict'].items() if name.endswith('half_grid')}
        )
    ),
    'huge half grids': _changed(
        lambda checkpoint: checkpoint['state_dict'].update(
            {name: value * 10**9 + 1 for name, value in checkpoint['state_dict'].items() if name.endswith('half_grid')}
        )
    ),
}


def _with_checkpoint(name: str, write: Callable[[Path, bytes], object]) -> Prepare:
    return lambda folder: write(folder / name, (folder / name).read_bytes())


def checkpoint_cases() -> Iterator[Case]:
    sizes = ['--kernel-sizes', 51, 49, 47, 13]
    for (kind, write), name in itertools.product(CHECKPOINTS.items(), ('seg', 'cls', 'det')):
        config, checkpoint = f'{name}.py', f'{name}.pth'
        picture = DIGIT if name == 'cls' else PICTURE
        damage = _with_checkpoint(checkpoint, write)
        yield Case('test.py', (config, checkpoint), f'{name}.pth', damage, about=kind)
        if name != 'det':
            yield Case('image_demo.py', (config, checkpoint, picture), f'{name}.pth', damage, ('demo_out',), about=kind)
        if name == 'seg':
            yield Case(
                'deploy.py',
                (config, checkpoint, 'out/folded.pth'),
                'seg.pth',
                damage,
                ('out/folded.pth', 'out/folded.py'),
                about=kind,
            )
            yield Case('export.py', (config, checkpoint, 'out/model.onnx'), 'seg.pth', damage, ('out/model.onnx',), about=kind)
            yield Case(
                'receptive_field.py', (config, checkpoint, '--size', 64), 'seg.pth', damage, ('receptive_field.png',), about=kind
            )
            yield Case('resize_checkpoint.py', (checkpoint, 'out.pth', *sizes), 'seg.pth', damage, ('out.pth',), about=kind)
        if name == 'cls' and kind != 'meta of another type':
            yield Case('convert_checkpoint.py', (config, checkpoint, 'out.pth'), 'cls.pth', damage, ('out.pth',), about=kind)
            yield Case('train.py', ('seg.py', '--pretrained', checkpoint), 'cls.pth', damage, about=kind)
        if name == 'cls':
            yield Case('measure_resizing.py', (config, checkpoint), 'cls.pth', damage, about=kind)
            yield Case('train.py', (config, '--cfg-options', f'load_from={checkpoint}'), 'cls.pth', damage, about=kind)
            yield Case('train.py', (config, '--resume', 'run.pth'), 'run.pth', _with_checkpoint('run.pth', write), about=kind)
    for kind, write in FOR_MODELS.items():
        damage = _with_checkpoint('seg.pth', write)
        yield Case('test.py', ('seg.py', 'seg.pth'), 'seg.pth', damage, about=kind)
        yield Case(
            'deploy.py',
            ('seg.py', 'seg.pth', 'out/folded.pth'),
            'seg.pth',
            damage,
            ('out/folded.pth', 'out/folded.py'),
            about=kind,
        )
        if 'grid' in kind:
            yield Case('resize_checkpoint.py', ('seg.pth', 'out.pth', *sizes), 'seg.pth', damage, ('out.pth',), about=kind)
    for key, value in itertools.product(('epoch', 'iter'), (None, -1, 1.5, 'two', [1], torch.zeros(2))):
        change = _changed(lambda checkpoint, key=key, value=value: checkpoint['meta'].update({key: value}))
        yield Case(
            'train.py',
            ('cls.py', '--resume', 'run.pth'),
            f'run.pth.*{key}',
            _with_checkpoint('run.pth', change),
            about=f'{key}={value!r}',
        )
    for key in ('optimizer', 'message_hub', 'param_schedulers', 'sparsity', 'ema_state_dict'):
        for value in (None, 1, [], {}, 'text', {'state': 1}, [1, 2]):
            change = _changed(lambda checkpoint, key=key, value=value: checkpoint.update({key: value}))
            yield Case(
                'train.py',
                ('cls.py', '--resume', 'run.pth'),
                'run.pth',
                _with_checkpoint('run.pth', change),
                about=f'{key}={value!r}',
            )
    for text in ('', 'nowhere.pth', '/', '\0', 'a' * 5000, '../seg.pth\nrun.pth', 'cls.py', '\udcff'):
        yield Case(
            'train.py',
            ('cls.py', '--work-dir', 'w', '--resume'),
            'last_checkpoint',
            lambda folder, text=text: (
                (folder / 'w').mkdir(),
                (folder / 'w/last_checkpoint').write_bytes(text.encode(errors='surrogateescape')),
            ),
            about=repr(text[:60]),
        )


# Configs

CONFIG_TEXTS = {
    'NameError': 'model = nothing',
    'ZeroDivisionError': 'model = dict(type=1 / 0)',
    'SyntaxError': 'model = dict(',
    'ImportError': 'import no_such_module',
    'exit': 'import sys\nsys.exit(0)',
    'RecursionError': 'def f(): return f()\nmodel = f()',
    'no model': 'x = 1',
    'empty': '',
    'null byte': 'model = dict()\0',
    'its own base': "_base_ = 'bad.py'",
    'missing base': "_base_ = 'nowhere.py'",
    'base of another type': '_base_ = 3',
    'base in no package': "_base_ = 'nothing::a.py'",
    'model is None': 'model = None',
    'model is text': "model = 'PeLK'",
    'model is a list': 'model = [dict()]',
    'model without a type': 'model = dict(backbone=dict())',
    'missing import': "custom_imports = dict(imports=['no_such_module'])\nmodel = dict()",
    'imports of another type': 'custom_imports = 3\nmodel = dict()',
}
OTHER_CONFIGS = {
    'bad.yaml': 'model: [',
    'bad.json': '{"model": ',
    'bad.yml': '- a\n- b',
    'bad.txt': 'model = dict()',
    'bad': 'model = dict()',
}


def config_cases() -> Iterator[Case]:
    commands = (
        ('train.py', ()),
        ('test.py', ('seg.pth',)),
        ('image_demo.py', ('seg.pth', PICTURE)),
        ('complexity.py', ()),
        ('deploy.py', ('seg.pth', 'out.pth')),
    )
    for number, (kind, text) in enumerate(CONFIG_TEXTS.items()):
        for tool, args in commands[: 2 + (number % 3 == 0)] + commands[3:]:
            yield Case(
                tool,
                ('bad.py', *args),
                '',
                lambda folder, text=text: (folder / 'bad.py').write_text(text),
                ('out.pth',),
                about=kind,
            )
    for name, text in OTHER_CONFIGS.items():
        for tool, args in commands[:2]:
            yield Case(tool, (name, *args), '', lambda folder, name=name, text=text: (folder / name).write_text(text))
    for config in ('nowhere.py', '', '.', 'data', 'a' * 5000, 'seg.pth', 'seg.py/x'):
        yield Case('train.py', (config,))
        yield Case('test.py', (config, 'seg.pth'))


# Settings of the config, by the name that the message must contain.
SETTINGS = {
    'seg.py': {
        'train_dataloader': ('None', '3', 'text', '[]'),
        'train_dataloader.dataset': ('None', '3', '[]'),
        'train_dataloader.dataset.type': ('None', 'Nope', '3'),
        'train_dataloader.dataset.pipeline': ('3', 'None', "[dict(type='Nope')]", '[3]'),
        'train_dataloader.dataset.nope': ('1',),
        'train_dataloader.dataset.data_root': ('nowhere', '3', '[]'),
        'train_dataloader.batch_size': ('0', '-1', '1.5', 'None', 'two', '[1]'),
        'train_dataloader.num_workers': ('-1', '1.5', 'None', 'two'),
        'train_dataloader.sampler': ('None', '3', "dict(type='Nope')", 'dict()'),
        'train_dataloader.nope': ('1',),
        'val_dataloader': ('3', 'text'),
        'val_evaluator': ('None', '3', "dict(type='Nope')", 'dict()'),
        'val_cfg': ('3', "dict(type='Nope')"),
        'train_cfg': ('None', '3', 'dict()', "dict(type='Nope')"),
        'train_cfg.max_iters': ('0', '-1', 'None', '1.5', 'two'),
        'train_cfg.val_interval': ('0', '-1', 'None', 'two'),
        'optim_wrapper': ('None', '3', "dict(type='Nope')", 'dict()'),
        'optim_wrapper.optimizer': ('None', '3', "dict(type='Nope')", 'dict()'),
        'optim_wrapper.optimizer.lr': ('nan', 'inf', '-1', 'None', 'two', '[1]', 'True'),
        'optim_wrapper.optimizer.weight_decay': ('nan', '-1', 'two', 'None'),
        'optim_wrapper.optimizer.betas': ('3', '(2,2)', "'x'"),
        'optim_wrapper.optimizer.nope': ('1',),
        'optim_wrapper.constructor': ('Nope', '3'),
        'optim_wrapper.paramwise_cfg': ('3', 'text'),
        'param_scheduler': ('3', 'text', "[dict(type='Nope')]", '[3]', "[dict(type='LinearLR',start_factor='x')]"),
        'default_hooks': ('3', 'text', '[]'),
        'default_hooks.checkpoint': ("dict(type='Nope')", '3'),
        'default_hooks.checkpoint.interval': ('0', '-2', 'two', '1.5'),
        'custom_hooks': ('3', "[dict(type='Nope')]", '[3]', "[dict(type='FixedSparsityHook',nope=1)]"),
        'default_scope': ('3', 'nowhere'),
        'work_dir': ('3', '[]'),
        'randomness': ('3', 'dict(seed=-1)', "dict(seed='x')", 'dict(seed=1.5)', 'dict(nope=1)'),
        'env_cfg': ('3', 'None'),
        'log_level': ('LOUD', '[]'),
        'log_processor': ('3', "dict(type='Nope')"),
        'visualizer': ('3', "dict(type='Nope')"),
        'load_from': ('3', 'nowhere.pth', '[]'),
        'model.backbone': ('None', '3', 'text'),
        'model.decode_head': ('None', '3', 'dict()', "dict(type='Nope')"),
        'model.decode_head.num_classes': ('0', '-1', '5', 'two', 'None'),
        'model.decode_head.in_channels': ('3', '[1,2,3,4]'),
        'model.data_preprocessor': ('3', "dict(type='Nope')"),
        'model.type': ('None', '3', 'Nope'),
        'model.backbone.init_cfg.type': ('Nope', '3'),
    },
    'cls.py': {
        'total_batch_size': ('0', '-4', '5', 'two', '1.5'),
        'train_cfg.max_epochs': ('0', '-1', 'None', '1.5', 'two'),
        'train_cfg.val_interval': ('0', 'two'),
        'model.head.num_classes': ('5', '0', 'two'),
        'train_dataloader.dataset.data_prefix': ('nowhere', '3', '[]'),
        'train_dataloader.collate_fn': ('3', "dict(type='Nope')"),
        'custom_hooks.1.interval': ('0', '1.5', 'two'),
        'custom_hooks.1.sparsity': ('nan', '2', 'two', 'None'),
        'custom_hooks.1.allocation': ('nope', '3'),
        'custom_hooks.1.rate': ('nan', '-1', 'two'),
        'custom_hooks.1.seed': ('1.5', 'two'),
        'custom_hooks.0.momentum': ('2', 'two', 'nan'),
    },
    'det.py': {
        'train_dataloader.dataset.ann_file': ('nowhere.json', '3', '[]'),
        'train_dataloader.dataset.metainfo': ('3', "dict(classes=('a',))", "dict(classes=3)"),
        'model.roi_head.bbox_head.0.num_classes': ('3', 'two'),
        'train_dataloader.batch_size': ('0', 'two'),
    },
}  # fmt: skip


def setting_cases() -> Iterator[Case]:
    for config, settings in SETTINGS.items():
        for key, values in settings.items():
            for value in values:
                yield Case(
                    'train.py', (config, '--work-dir', 'w', '--cfg-options', f'{key}={value}'), outputs=('w/last_checkpoint',)
                )
    for options in (
        ['lr'],
        ['=3'],
        ['a.b=c', 'd'],
        ['model.backbone.arch'],
        ['model=3'],
        ['model.backbone.arch.x=3'],
        ['model.0=3'],
    ):
        yield Case('train.py', ('seg.py', '--cfg-options', *options))
        yield Case('test.py', ('seg.py', 'seg.pth', '--cfg-options', *options))
    for launcher in ('pytorch', 'slurm', 'mpi', 'nope'):
        yield Case('train.py', ('seg.py', '--launcher', launcher), 'launcher')
        yield Case('test.py', ('seg.py', 'seg.pth', '--launcher', launcher), 'launcher')


# The arguments of PeLK. The message must name the argument.
BACKBONE_VALUES = {
    'arch': ('3', 'None', 'huge', 'dict(depths=(1,1,1,1))', "dict(depths=(1,1,1),channels=(8,8,8))"),
    'arch.depths': ('3', '(1,1,1,0)', '(1,1,1,-1)', "('a',1,1,1)", '(1.5,1,1,1)', 'None'),
    'arch.channels': ('3', '(8,8,8,0)', '(8,8,8,-8)', "('a',8,8,8)", '(8.5,8,8,8)'),
    'in_channels': ('0', '-1', '1.5', 'two', 'None'),
    'kernel_sizes': ('3', '(12,9,9,9)', '(0,9,9,9)', "('a',9,9,9)", '(9.0,9,9,9)', '(9,9,9)', 'None', '(True,9,9,9)'),
    'center_size': ('4', '99', 'two', '1.5', 'None', '(1,3)', '-1'),
    'grid_base': ('0', '-1', '1.5', 'two', 'None'),
    'sharing_grids': ('3', '[1,1,1,1]', '[[1],[1],[1]]', '[[2],[1],[1],[1]]', "[['a'],[1],[1],[1]]", '[[],[1],[1],[1]]'),
    'kernel_form': ('round', '3', 'None'),
    'resize_mode': ('nope', '3', 'None'),
    'pos_embed': ('nope', '3', 'True'),
    'pos_embed_mode': ('nope', '3', 'None'),
    'conv_ratio': ('0', '-1', '2', 'nan', 'two', 'None', '0.01'),
    'small_kernel': ('five', '4', '0', '-3', '99', '1.5', 'True'),
    'width_factor': ('nan', 'inf', '0', '-1', 'two', 'None', '0.01'),
    'drop_path_rate': ('nan', '1', '-0.1', 'two', 'None', '[0.1]'),
    'layer_scale_init_value': ('nan', 'inf', '-1', 'two', 'None'),
    'use_grn': ('maybe', '3', 'None'),
    'out_indices': ('3', '[4]', '[-1]', '[]', "['a']", '[1.5]', 'None', '[1,1]'),
    'gap_before_final_norm': ('maybe', '3', 'None'),
    'frozen_stages': ('1.0', '9', '-2', 'two', 'None', 'True'),
    'norm_eval': ('maybe', '3', 'None'),
    'with_cp': ('maybe', '3', 'None'),
    'norm_cfg': ('3', 'text', "dict(type='Nope')", 'dict()', "dict(type='BN',nope=1)"),
    'deploy': ('nope', '3', 'True'),
    'backend': ('nope', '3', 'None'),
    'init_cfg': ('3', 'text'),
}  # fmt: skip
UNNAMED = {
    'resize_mode': 'resize mode',
    'norm_cfg': '',
    'init_cfg': '',
    'arch.depths': 'depths',
    'arch.channels': 'channels',
    'use_grn': 'use_grn',
}


def backbone_cases() -> Iterator[Case]:
    for key, values in BACKBONE_VALUES.items():
        for value in values:
            options = ('--cfg-options', f'model.backbone.{key}={value}')
            yield Case('complexity.py', ('seg.py', '--size', 64, 64, *options), UNNAMED.get(key, key))


# Data


def _own(change: Callable[[Path], object]) -> Prepare:
    """Give a case a copy of the data, and damage the copy."""

    def prepare(folder: Path) -> None:
        source = (folder / 'data').resolve()
        (folder / 'data').unlink()
        shutil.copytree(source, folder / 'data')
        change(folder / 'data')

    return prepare


def _all_images(write: Callable[[Path], object], kind: str = 'digit_scenes/images') -> Prepare:
    return _own(lambda data: [write(path) for path in (data / kind).rglob('*.jpg' if 'annotations' not in kind else '*.png')])


def _write_image(content: np.ndarray, suffix: str = '.png') -> Callable[[Path], None]:
    encoded = cv2.imencode(suffix, content)[1].tobytes()
    return lambda path: path.write_bytes(encoded)


@functools.cache
def _png_bomb() -> bytes:
    """Return a small PNG file with 80 MiB of compressed text."""
    about, file = PngImagePlugin.PngInfo(), io.BytesIO()
    about.add_text('bomb', 'x' * (80 * 2**20), zip=True)
    Image.new('RGB', (128, 128)).save(file, 'PNG', pnginfo=about)
    return file.getvalue()


IMAGES: dict[str, Callable[[Path], object]] = {
    'empty': lambda path: path.write_bytes(b''),
    'text': lambda path: path.write_text('a picture'),
    'cut': lambda path: path.write_bytes(path.read_bytes()[:900]),
    'EPS': lambda path: path.write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 128 128\nshowpage\n'),
    'folder': lambda path: (path.unlink(), path.mkdir()),
    'missing': lambda path: path.unlink(),
    'text bomb': lambda path: path.write_bytes(_png_bomb()),
    '16 bits': _write_image(np.full((128, 128, 3), 9000, np.uint16)),
    'gray with 16 bits': _write_image(np.full((128, 128), 9000, np.uint16)),
}
LABELS: dict[str, Callable[[Path], object]] = {
    'empty': lambda path: path.write_bytes(b''),
    'cut': lambda path: path.write_bytes(path.read_bytes()[:150]),
    'missing': lambda path: path.unlink(),
    '257 in 16 bits': _write_image(np.full((128, 128), 257, np.uint16)),
    '65535 in 16 bits': _write_image(np.full((128, 128), 65535, np.uint16)),
    '200': _write_image(np.full((128, 128), 200, np.uint8)),
    'color': _write_image(np.full((128, 128, 3), 3, np.uint8)),
    'small': _write_image(np.full((64, 128), 1, np.uint8)),
    'text': lambda path: path.write_text('labels'),
}


def _coco(change: Callable[[dict], object]) -> Prepare:
    def damage(data: Path) -> None:
        for split in ('training', 'validation'):
            path = data / f'digit_scenes/instances_{split}.json'
            content = mmengine.load(path)
            result = change(content)
            mmengine.dump(content if result is None else result, path)

    return _own(damage)


def _item(**values: object) -> Prepare:
    """Change the first annotation. The value Ellipsis (``...``) removes a key."""

    def change(content: dict) -> None:
        item = content['annotations'][0]
        for key, value in values.items():
            if value is ...:
                del item[key]
            else:
                item[key] = value

    return _coco(change)


ANNOTATIONS = {
    'box of negative height': _item(bbox=[30, 30, 5, -5]),
    'box outside': _item(bbox=[300, 3, 5, 5]),
    'box of three numbers': _item(bbox=[3, 3, 5]),
    'box of text': _item(bbox=['a', 'b', 'c', 'd']),
    'box of NaN': _item(bbox=[float('nan'), 3, 5, 5]),
    'box missing': _item(bbox=...),
    'area missing': _item(area=...),
    'area negative': _item(area=-1),
    'area of text': _item(area='large'),
    'category unknown': _item(category_id=99),
    'image unknown': _item(image_id=99999),
    'polygon of an odd number of values': _item(segmentation=[[1, 1, 5, 5, 9, 9, 3]]),
    'polygon of text': _item(segmentation=[['a', 'b', 'c', 'd', 'e', 'f']]),
    'no polygon': _item(segmentation=[]),
    'segmentation missing': _item(segmentation=...),
    'segmentation of another type': _item(segmentation=3),
    'RLE of another size': _item(segmentation=dict(size=[5, 5], counts=[25])),
    'RLE with counts that do not fill it': _item(segmentation=dict(size=[128, 128], counts=[5])),
    'RLE with negative counts': _item(segmentation=dict(size=[128, 128], counts=[-1, 128 * 128 + 1])),
    'RLE with broken text': _item(segmentation=dict(size=[128, 128], counts='@@@')),
    'RLE without counts': _item(segmentation=dict(size=[128, 128])),
    'iscrowd of text': _item(iscrowd='yes'),
    'not a list': _coco(lambda content: content.update(annotations={})),
    'a list': _coco(lambda content: []),
    'no categories': _coco(lambda content: content.update(categories=[])),
    'repeated image ids': _coco(lambda content: content['images'].append(content['images'][0])),
    'repeated annotation ids': _coco(lambda content: content['annotations'].append(content['annotations'][0])),
    'image without a name': _coco(lambda content: content['images'][0].pop('file_name')),
    'image outside the folder': _coco(lambda content: content['images'][0].update(file_name='../../../seg.py')),
    'image of another size': _coco(lambda content: content['images'][0].update(width=0, height=-1)),
}  # fmt: skip


def data_cases() -> Iterator[Case]:
    for kind, write in IMAGES.items():
        says = r'no image|0 files|is empty' if kind in ('missing', 'folder') else r'(training|validation)_\d+\.jpg|\d_\d+.jpg'
        if kind == '16 bits':
            continue  # color images of 16 bits are read with 8 bits
        yield Case('train.py', ('seg.py',), says, _all_images(write), about=kind)
        if kind != 'folder':
            yield Case('train.py', ('cls.py',), says, _all_images(write, 'digits'), about=kind)
            yield Case('train.py', ('det.py',), says, _all_images(write), about=kind)
            yield Case(
                'image_demo.py', ('seg.py', 'seg.pth', PICTURE), 'validation_0000', _all_images(write), ('demo_out',), about=kind
            )
    for kind, write in LABELS.items():
        damage = _all_images(write, 'digit_scenes/annotations')
        yield Case('train.py', ('seg.py',), r'training_\d+\.png|annotations', damage, about=kind)
        yield Case('test.py', ('seg.py', 'seg.pth'), r'validation_\d+\.png|annotations', damage, about=kind)
    for kind, damage in ANNOTATIONS.items():
        yield Case('train.py', ('det.py',), 'instances_training.json', damage, about=kind)
        if 'box' in kind:
            yield Case('test.py', ('det.py', 'det.pth'), 'instances_validation.json', damage, about=kind)
    tiny = _write_image(np.zeros((1, 1, 3), np.uint8), '.jpg')
    yield Case('train.py', ('det.py',), '', _all_images(tiny))
    for config in ('seg.py', 'cls.py', 'det.py'):
        yield Case('train.py', (config,), 'data', lambda folder: (folder / 'data').unlink())
        yield Case('train.py', (config,), 'data', _own(lambda data: (shutil.rmtree(data), data.write_text('data'))))
    for suffix in ('.tif', '.JPG', ''):
        rename = _all_images(lambda path, suffix=suffix: path.rename(path.with_suffix(suffix)))
        yield Case('train.py', ('seg.py',), 'images/training', rename)
    yield Case('train.py', ('cls.py',), 'data/digits', _all_images(lambda path: path.rename(path.with_suffix('.txt')), 'digits'))
    yield Case(
        'train.py',
        ('cls.py',),
        'class',
        _own(
            lambda data: (
                [(data / f'digits/{split}/10').mkdir() for split in ('train', 'val')]
                and [
                    shutil.copy(data / f'digits/{split}/3/3_0000.jpg', data / f'digits/{split}/10') for split in ('train', 'val')
                ]
            )
        ),
    )


# Files to write


def file_cases() -> Iterator[Case]:
    sizes = ('--kernel-sizes', 51, 49, 47, 13)
    writers = {
        'resize_checkpoint.py': (('seg.pth', '{out}.pth', *sizes), '{out}.pth'),
        'convert_checkpoint.py': (('cls.py', 'cls.pth', '{out}.pth'), '{out}.pth'),
        'deploy.py': (('seg.py', 'seg.pth', '{out}.pth'), '{out}.pth'),
        'export.py': (('seg.py', 'seg.pth', '{out}.pt2', '--size', 64, 64), '{out}.pt2'),
        'receptive_field.py': (('seg.py', '--size', 64, '--out', '{out}.png'), '{out}.png'),
        'plot_grid.py': (('--out', '{out}.png'), '{out}.png'),
        'plot_training.py': (('w', '--out', '{out}.png'), '{out}.png'),
        'image_demo.py': (('seg.py', 'seg.pth', PICTURE, '--out-dir', '{out}'), '{out}'),
        'make_digit_scenes.py': (('{out}', '--num-training', 1, '--num-validation', 1), '{out}'),
        'make_digits.py': (('{out}', '--size', 32, '--copies', 1), '{out}'),
        'complexity.py': (('--out', '{out}'), '{out}'),
        'train.py': (('seg.py', '--work-dir', '{out}'), '{out}'),
        'test.py': (('seg.py', 'seg.pth', '--work-dir', '{out}'), '{out}'),
    }

    def write_log(folder: Path) -> None:
        (folder / 'w/run/vis_data').mkdir(parents=True)
        (folder / 'w/run/vis_data/scalars.json').write_text('{"loss": 1.0, "step": 1}\n')

    for tool, (args, out) in writers.items():
        targets = ('seg.py/out', 'a' * 300, '/proc/nope/out', '/sys/out')
        for target in targets[: 1 if tool == 'complexity.py' else None]:  # counting all tables takes a minute
            case_args = tuple(str(arg).replace('{out}', target) for arg in args)
            yield Case(
                tool, case_args, 'cannot|not', write_log, (() if target.startswith('/') else (out.replace('{out}', target),))
            )
        if tool in (
            'resize_checkpoint.py',
            'convert_checkpoint.py',
            'deploy.py',
            'export.py',
            'plot_training.py',
            'plot_grid.py',
        ):
            case_args = tuple(str(arg).replace('{out}', 'out') for arg in args)
            name = out.replace('{out}', 'out')
            full = (*((name,)), *(('out.py',) if tool == 'deploy.py' else ()))
            yield Case(tool, case_args, name.split('.')[0], write_log, full, file_size=4000)
            yield Case(tool, case_args, name, lambda folder, name=name: (write_log(folder), (folder / name).mkdir()))
            yield Case(tool, case_args, name, lambda folder, name=name: (write_log(folder), os.mkfifo(folder / name)))
    for config in ('seg.py', 'cls.py'):
        yield Case('train.py', (config, '--work-dir', 'w'), r'cannot write .*\.pth', file_size=20_000)
    for tool, args in (
        ('resize_checkpoint.py', ('seg.pth', 'seg.pth', *sizes)),
        ('resize_checkpoint.py', ('seg.pth', './seg.pth', *sizes)),
        ('convert_checkpoint.py', ('cls.py', 'cls.pth', 'cls.pth')),
        ('convert_checkpoint.py', ('cls.py', 'cls.pth', 'cls.py')),
        ('deploy.py', ('seg.py', 'seg.pth', 'seg.pth')),
        ('export.py', ('seg.py', 'seg.pth', 'seg.py')),
    ):
        yield Case(tool, args, 'overwrit|must end')


# The tools' own options


def _log(text: str) -> Prepare:
    def write(folder: Path) -> None:
        (folder / 'w/run/vis_data').mkdir(parents=True)
        (folder / 'w/run/vis_data/scalars.json').write_bytes(text.encode(errors='surrogateescape'))

    return write


def _onnx(**properties: str) -> Prepare:
    def write(folder: Path) -> None:
        import onnx
        from onnx import TensorProto, helper

        value = helper.make_tensor_value_info('images', TensorProto.FLOAT, [1, 3, 64, 64])
        result = helper.make_tensor_value_info('logits', TensorProto.FLOAT, [1, 3, 64, 64])
        graph = helper.make_graph([helper.make_node('Identity', ['images'], ['logits'])], 'g', [value], [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 20)], ir_version=9)
        helper.set_model_props(model, properties)
        onnx.save(model, folder / 'm.onnx')

    return write


ABOUT = dict(task='"segmentation"', part='"model"', size='[64, 64]', batch='1', activation='"softmax"', classes='["a", "b", "c"]',
             palette='[[1, 2, 3], [4, 5, 6], [7, 8, 9]]')  # fmt: skip


def tool_cases() -> Iterator[Case]:
    for text in ('', '{', '[1]', '3', '{"loss": 1}', '{"loss": "x", "step": 1}', '{"loss": 1, "step": "x"}', '\udcff', 'null'):
        yield Case('plot_training.py', ('w',), 'w|log', _log(text), ('w/curves.png',), about=repr(text))
    yield Case('plot_training.py', ('nowhere',), 'nowhere')
    for sizes in ((12, 13, 13, 13), (1, 1, 1, 1), (-3, 5, 5, 5), (9999, 69, 67, 13), (0, 0, 0, 0)):
        yield Case('measure_resizing.py', ('cls.py', 'cls.pth', '--to', *sizes), 'kernel')
        if sizes[0] == 9999:
            continue  # its grid has few cells, so a file with it is small
        yield Case(
            'resize_checkpoint.py',
            ('seg.pth', 'out.pth', '--kernel-sizes', *sizes, '--outward'),
            'kernel|seg.pth',
            outputs=('out.pth',),
        )
    for size in (-1, 0, 4, 99):
        yield Case('measure_resizing.py', ('cls.py', 'cls.pth', '--center-size', size), 'center_size')
        yield Case(
            'resize_checkpoint.py', ('seg.pth', 'out.pth', '--kernel-sizes', 51, 49, 47, 13, '--center-size', size), 'center_size'
        )
    yield Case('measure_resizing.py', ('seg.py', 'seg.pth'), 'classifier')
    yield Case('measure_resizing.py', ('cls.py', 'cls.pth', '--cfg-options', 'test_dataloader=None'), 'test_dataloader')
    for args in (
        ('--size', 0),
        ('--size', -5),
        ('--size', 10**9),
        ('--limit', 0),
        ('--images', 'nowhere'),
        ('--images', 'w'),
        ('--out', 'x.jpg'),
    ):
        yield Case('receptive_field.py', ('seg.py', *args), '', lambda folder: (folder / 'w').mkdir())
    yield Case('receptive_field.py', ('seg.py', '--cfg-options', 'model.backbone.kernel_sizes=(12,9,9,9)'), 'kernel_size')
    yield Case('receptive_field.py', ('seg.py', '--cfg-options', 'model.data_preprocessor=None'), 'data_preprocessor')
    yield Case('receptive_field.py', ('seg.py', '--size', 64, '--cfg-options', 'model.data_preprocessor.mean=[1]'), 'mean')
    for args in (
        ('op', '--device', 'foo'), ('op', '--device', 'cuda:99'), ('model', '--device', ''), ('op', '--rounds', 0),
        ('op', '--budget', 'nan'),
        ('op', '--budget', -1), ('op', '--shape', 1, 1, 1, 2), ('op', '--shape', 0, 1, 1, 3), ('op', '--shape', 10**6, 10**6, 999, 3),
        ('train', '--batch', 1), ('model', '--size', 5), ('op', '--precision', 'float8'), ('nope',), (), ('model', '--size', 10**7),
    ):  # fmt: skip
        yield Case('benchmark.py', args)
    for text in ('{', '[]', '3', '\udcff'):

        def write(folder: Path, text: str = text) -> None:
            (folder / 'e').mkdir()
            (folder / 'e/results_2e.json').write_bytes(text.encode(errors='surrogateescape'))

        yield Case(
            'train_evidence.py',
            ('digits', '--work-dir', 'e', '--epochs', 2, '--seeds', 1),
            'results_2e.json',
            write,
            about=repr(text),
        )
    for args in (('--epochs', 0), ('--seeds', 0), ('--epochs', 'x'), ('--seeds', -1)):
        yield Case('train_evidence.py', ('digits', *args))
    for key in ABOUT:
        properties = {name: value for name, value in ABOUT.items() if name != key}
        yield Case(
            'onnx_demo.py',
            ('m.onnx', PICTURE),
            'm.onnx',
            _onnx(**properties),
            ('onnx_out/validation_0000.png',),
            about=f'no {key}',
        )
        for value in ('null', '3', '"x"', '[]', '{', '[["a"]]'):
            if (key, value) not in (('size', 'null'), ('batch', 'null')) and not (key == 'batch' and value == '3'):
                damage = _onnx(**{**properties, key: value})
                yield Case(
                    'onnx_demo.py',
                    ('m.onnx', PICTURE),
                    'm.onnx',
                    damage,
                    ('onnx_out/validation_0000.png',),
                    about=f'{key}={value}',
                )
    for model in ('seg.pth', 'nowhere.onnx', 'data', ''):
        yield Case('onnx_demo.py', (model, PICTURE))
    yield Case('onnx_demo.py', ('m.onnx', 'nowhere.jpg'), 'nowhere.jpg', _onnx(**ABOUT))
    yield Case('onnx_demo.py', ('m.onnx', 'seg.py'), 'seg.py', _onnx(**ABOUT))
    for args in (
        ('m.txt',), ('m.onnx', '--size', 0, 0), ('m.onnx', '--size', -1, 64), ('m.onnx', '--size', 10**6, 10**6), ('m.pt2', '--batch', 0),
        ('m.onnx', '--size', 32, 32, '--dynamic'), ('m.onnx', '--batch', 10**9), ('m.onnx', '--images', 'nowhere.jpg'),
        ('m.onnx', '--part', 'head'), ('m.onnx', '--part', 'neck'),
    ):  # fmt: skip
        yield Case('export.py', ('seg.py', 'seg.pth', *args), outputs=('m.onnx', 'm.pt2', 'm.txt'))
    for args in (('--size', 5, 5), ('--density', 0), ('--density', 'nan'), ('--density', 'x'), ('--out', 'x')):
        yield Case('complexity.py', ('seg.py', *args))
    for args in (
        ('--kernels', 12, '--centers', 5),
        ('--kernels', 13),
        ('--kernels', -1, '--centers', 1),
    ):
        yield Case('plot_grid.py', args, outputs=('sharing_grids.png',))
    for tool in ('make_digits.py', 'make_digit_scenes.py'):
        for args in (('--size', 5), ('--size', 10**6), ('--seed', -1), ('--seed', 2**40), ('--seed', 'x')):
            yield Case(tool, ('new', *args), '', outputs=('new',))
        yield Case(
            tool, ('full',), 'full', lambda folder: ((folder / 'full').mkdir(), (folder / 'full/made_with.json').write_text('{'))
        )
    for args in (
        ('nowhere.jpg',),
        ('seg.py',),
        ('nowhere.mp4',),
        ('data',),
        (PICTURE, PICTURE),
        ('bad.mp4',),
        (PICTURE, '--device', 'foo'),
    ):
        prepare = lambda folder: (folder / 'bad.mp4').write_text('video')  # noqa: E731
        yield Case('image_demo.py', ('seg.py', 'seg.pth', *args), '', prepare, ('demo_out',))
    for args in (('--tta',), ('--out', 'x/y', '--work-dir', 'seg.py'), ('--show-dir', 'seg.py/x')):
        yield Case('test.py', ('seg.py', 'seg.pth', *args))
    yield Case('test.py', ('cls.py', 'cls.pth', '--out', 'x.txt'), 'x.txt')
    yield Case('test.py', ('cls.py', 'cls.pth', '--out', 'seg.py/x.pkl'), 'seg.py')
    yield Case('train.py', ('seg.py', '--amp'), 'amp')
    for port in (0, -1, 70000, 'x'):
        yield Case('demo_app.py', ('seg.py', 'seg.pth', '--port', port))
    yield Case('demo_app.py', ('seg.py', 'seg.pth', '--host', 'no.such.host.invalid'), 'listen|gradio')
