"""declare_missing_operators with torchvision packages that work, fail, or do not exist."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

# Each case is a fork of one process, because torch's operators and Python's modules cannot be unloaded. Only the fake packages are
# found there. mmpelk/__init__.py, which imports OpenMMLab, is not needed.
SCRIPT = """
import json, os, runpy, sys
import torch

module, *folders = sys.argv[1:]
declare_missing_operators = runpy.run_path(module)['declare_missing_operators']
standard_library = [path for path in sys.path if path and 'site-packages' not in path]

def declared():
    return [name for name in ('nms', 'qnms') if torch._C._jit_get_schemas_for_operator(f'torchvision::{name}')]

def run(folder):
    sys.path[:] = [folder, *standard_library]
    before = declared()
    try:
        declare_missing_operators()
    except Exception as error:
        return dict(error=repr(error))
    result = dict(before=before, after=declared(), imported=[n for n in ('torchvision', 'mmpretrain') if n in sys.modules])
    if result['after']:
        import torchvision
        declare_missing_operators()  # a second time changes nothing
    return result

for folder in folders:
    if os.fork() == 0:
        print(json.dumps(run(folder)), flush=True)
        os._exit(0)
    os.wait()
"""
# Like the real package, it registers functions for operators that its compiled library would have declared.
BROKEN = """
import torch
for name in ('nms', 'qnms'):
    torch.library.register_fake(f'torchvision::{name}')(lambda dets, scores, iou_threshold: dets)
"""
NOT_IMPORTED = "raise ImportError('mmpretrain must not be imported')"
NOTHING = dict(before=[], after=[], imported=[])
CASES = {
    'broken': (dict(torchvision=BROKEN, mmpretrain=NOT_IMPORTED), dict(before=[], after=['nms', 'qnms'], imported=[])),
    'broken without mmpretrain': (dict(torchvision=BROKEN), NOTHING),
    'working': (dict(torchvision='', mmpretrain=NOT_IMPORTED), dict(before=[], after=[], imported=['torchvision'])),
    'working without mmpretrain': (dict(torchvision=''), NOTHING),
    'no torchvision': (dict(mmpretrain=NOT_IMPORTED), NOTHING),
    'another error': (
        dict(torchvision="raise RuntimeError('another error')", mmpretrain=NOT_IMPORTED),
        dict(error="RuntimeError('another error')"),
    ),
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """Return the result of each case by its name."""
    folders = [tmp_path_factory.mktemp('fakes') for _ in CASES]
    for folder, (packages, _) in zip(folders, CASES.values(), strict=True):
        for name, text in packages.items():
            (folder / name).mkdir()
            (folder / name / '__init__.py').write_text(text)
    command = [sys.executable, '-c', SCRIPT, ROOT / 'mmpelk/utils/torchvision_compat.py', *folders]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return dict(zip(CASES, map(json.loads, result.stdout.splitlines()), strict=True))


@pytest.mark.parametrize('name', CASES)
def test_operators_are_declared_only_if_torchvision_fails_without_them(name, results):
    assert results[name] == CASES[name][1]
