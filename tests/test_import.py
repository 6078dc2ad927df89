"""What ``import mmpelk`` changes in a process, and what it needs."""

from __future__ import annotations

import subprocess
import sys

from conftest import ROOT

TORCH_ALONE = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'numpy', 'cv2'):
    sys.modules[name] = None  # importing it fails
import torch
from mmpelk.ops import DepthwiseConv2d, PeripheralConv2d
for module in (PeripheralConv2d(2, 51), DepthwiseConv2d(2, 51, partial=True)):
    x = torch.randn(1, module.weight.shape[0] + module.partial, 9, 9)
    module(x).sum().backward()
    print(tuple(module(x).shape), tuple(module.weight.grad.shape))
"""

# What tools/gpu.py imports.
MEASURING_WITH_TORCH_ALONE = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'timm', 'cv2', 'matplotlib', 'pytest', 'hypothesis'):
    sys.modules[name] = None
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
import torch
from mmengine.fileio.backends.registry_utils import backends, prefix_to_backends
import mmcv.cnn.bricks, mmcv.transforms, mmengine.hooks  # these register classes of their own
from mmengine.registry import DATASETS, HOOKS, MODELS, TRANSFORMS
from mmengine.runner.checkpoint import CheckpointLoader

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
    )

registries = (MODELS, HOOKS, DATASETS, TRANSFORMS)
before, registered = state(), [set(registry.module_dict) for registry in registries]
import mmpelk
after = state()
assert before == after, [key for key in before if before[key] != after[key]]
added = set().union(*(set(registry.module_dict) - names for registry, names in zip(registries, registered, strict=True)))
print(sorted(added))

from mmengine.logging import HistoryBuffer
from mmpelk.checkpoints.safe_types import CAN_ALLOW_TYPES
assert not CAN_ALLOW_TYPES or HistoryBuffer in torch.serialization.get_safe_globals()
"""


def run(script: str) -> list[str]:
    result = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_ops_needs_only_torch():
    assert run(TORCH_ALONE) == ['(1, 2, 9, 9) (2, 1, 13, 13)', '(1, 3, 9, 9) (2, 1, 51, 51)']


def test_measuring_on_gpus_needs_only_torch():
    assert run(MEASURING_WITH_TORCH_ALONE)[-1].startswith("['checks', 'operator', 'inference', 'training'")


def test_the_operator_tests_need_no_openmmlab():
    assert any('test_derivatives.py::' in line for line in run(COLLECTING_WITHOUT_OPENMMLAB))


def test_import_registers_classes_and_changes_nothing_else():
    expected = [
        'AtomicCheckpointHook',
        'CheckSegMap',
        'DynamicSparsityHook',
        'FixedSparsityHook',
        'GrownBackbone',
        'PeLK',
        'SharedStepsHook',
    ]
    assert run(CHANGES_NOTHING)[-1] == str(expected)
