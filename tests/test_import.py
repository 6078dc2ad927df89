"""What ``import mmpelk`` changes in a process, and what it needs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from conftest import ROOT

# Since torch 2.6, mmpelk allows mmengine's types in checkpoints.
CAN_ALLOW_TYPES = tuple(map(int, torch.__version__.split('.')[:2])) >= (2, 6)

# Hides every module except Python's own, mmpelk, torch, and what torch requires. ``find_spec`` of a hidden module returns None.
TORCH_ALONE = """
import re
import sys
from importlib.metadata import PackageNotFoundError, requires

def required(name):
    try:
        lines = requires(name) or ()
    except PackageNotFoundError:  # another platform needs it
        return
    for line in lines:
        if 'extra ==' not in line:
            module = re.match(r'[\\w.-]+', line)[0].lower().replace('-', '_')
            if module not in allowed:
                allowed.add(module)
                required(module)

class Finder:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        is_allowed = name.partition('.')[0] in allowed or name.startswith('_sysconfigdata')
        return self.finder.find_spec(name, path, target) if is_allowed else None

allowed = {'mmpelk', 'torch', 'torchgen', 'functorch'}
required('torch')
allowed = (allowed - {'triton', 'numpy'}).union(sys.stdlib_module_names, sys.argv[1:])
sys.meta_path = [Finder(finder) for finder in sys.meta_path]
"""

OPERATOR = """
import torch
from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d
for module in (PeripheralConv2d(2, 51), DepthwiseConv2d(2, 51, partial=True)):
    x = torch.randn(1, module.weight.shape[0] + module.partial, 9, 9)
    module(x).sum().backward()
    print(tuple(module(x).shape), tuple(module.weight.grad.shape))
"""

# What tools/gpu.py imports.
MEASURING = """
from mmpelk.analysis import gpu_page, gpu_session
print(list(gpu_session.plan('cpu', gpu_session.SMALL)))
"""

# What pytest collects on a machine with only torch, Triton, and pytest, where make gpu runs tests/ops.
COLLECTING_WITHOUT_OPENMMLAB = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain'):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(['-q', '--collect-only', '-p', 'no:cacheprovider', 'tests/ops']))
"""

CHANGES_NOTHING = """
import sys
import mmengine.registry
import torch
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
import mmcv.cnn.bricks, mmcv.transforms, mmengine.hooks  # these register classes of their own
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import EpsImagePlugin

REGISTRIES = {name: value for name, value in vars(mmengine.registry).items() if isinstance(value, mmengine.registry.Registry)}
allowed_types = getattr(torch.serialization, 'get_safe_globals', list)  # torch 2.1 has no such list

def state():
    return dict(
        loaders=dict(CheckpointLoader._schemes),
        backends=dict(backends),
        prefixes=dict(prefix_to_backends),
        torchvision='torchvision' in sys.modules,
        frameworks=[name for name in ('mmseg', 'mmdet', 'mmpretrain') if name in sys.modules],
        nms=torch._C._jit_get_schemas_for_operator('torchvision::nms'),
        threads=torch.get_num_threads(),
        default_dtype=torch.get_default_dtype(),
        process_group=torch.distributed.is_initialized(),
        ghostscript=EpsImagePlugin.Ghostscript,
        children={name: list(registry.children) for name, registry in REGISTRIES.items()},
    )

def registered():
    return {(name, key): kind for name, registry in REGISTRIES.items() for key, kind in registry.module_dict.items()}

before, classes, types = state(), registered(), allowed_types()
import mmpelk
after = state()
assert before == after, [key for key in before if before[key] != after[key]]
assert registered().items() >= classes.items()
added = [item for item in allowed_types() if item not in types]
assert all(item in allowed_types() for item in types)
print(sorted(item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}' for item in added))
print(sorted('.'.join(key) for key in registered().keys() - classes))
"""
# mmpelk replaces getattr with a function that returns methods of HistoryBuffer only. NumPy 1 and 2 write different names.
NUMBERS = [type(np.dtype(name)) for name in ('float64', 'float32', 'int64', 'int32', 'bool')]
ALLOWED_TYPES = [
    'builtins.getattr',
    'mmengine.logging.history_buffer.HistoryBuffer',
    'numpy.dtype',
    'numpy.ndarray',
    *(f'{kind.__module__}.{kind.__qualname__}' for kind in NUMBERS),
    *(f'numpy.{core}.multiarray.{name}' for core in ('_core', 'core') for name in ('_reconstruct', 'scalar')),
]


def run(script: str, *arguments: str) -> list[str]:
    result = subprocess.run([sys.executable, '-c', script, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_ops_needs_only_torch():
    assert run(TORCH_ALONE + OPERATOR) == ['(1, 2, 9, 9) (2, 1, 13, 13)', '(1, 3, 9, 9) (2, 1, 51, 51)']


def test_measuring_on_gpus_needs_only_torch():
    assert run(TORCH_ALONE + MEASURING, 'triton')[-1].startswith("['checks', 'operator', 'inference', 'training'")


def test_the_operator_tests_need_no_openmmlab():
    assert any('test_derivatives.py::' in line for line in run(COLLECTING_WITHOUT_OPENMMLAB))


def test_import_registers_classes_and_changes_nothing_else():
    *_, types, classes = run(CHANGES_NOTHING)
    assert types == str(sorted(ALLOWED_TYPES) if CAN_ALLOW_TYPES else [])
    assert classes == str([
        'HOOKS.AtomicCheckpointHook',
        'HOOKS.DynamicSparsityHook',
        'HOOKS.FixedSparsityHook',
        'HOOKS.SharedStepsHook',
        'MODELS.GrownBackbone',
        'MODELS.PeLK',
        'TRANSFORMS.CheckSegMap',
    ])  # fmt: skip
