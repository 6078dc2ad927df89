"""mmpelk.ops needs torch alone."""

import subprocess
import sys

from conftest import ROOT

SCRIPT = """
import sys
for name in ('mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpretrain', 'numpy', 'cv2'):
    sys.modules[name] = None  # importing it fails
import torch
from mmpelk.ops import SharingGrid, peripheral_conv2d
grid = SharingGrid.peripheral(51)
print(tuple(peripheral_conv2d(torch.randn(1, 2, 9, 9), torch.randn(2, 1, 13, 13), grid).shape))
"""


def test_ops_without_openmmlab():
    result = subprocess.run([sys.executable, '-c', SCRIPT], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == '(1, 2, 9, 9)', result.stderr
