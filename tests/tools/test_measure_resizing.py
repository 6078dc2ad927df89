"""tools/measure_resizing.py on a small untrained classifier."""

import re

from conftest import CONFIGS, save_untrained

from mmpelk.datasets import make_digits

SMALL = f"""
_base_ = '{CONFIGS / 'demo/pelk_atto_digits_cls.py'}'
model = dict(
    backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16)), width_factor=1.0),
    head=dict(in_channels=16))
test_dataloader = dict(dataset=dict(indices=8))
"""


def test_effects(run_tool, fail_tool, tmp_path):
    (tmp_path / 'small.py').write_text(SMALL)
    save_untrained(tmp_path / 'small.py', tmp_path / 'small.pth')
    make_digits(tmp_path / 'data/digits', size=32, copies=1)
    printed = run_tool('measure_resizing.py', 'small.py', 'small.pth')
    assert '8 images, kernels [51, 49, 47, 13] to [101, 69, 67, 13]' in printed
    rows = {name.strip(): float(change) for name, change in re.findall(r'^(.+?) +(\d\.\d\de[-+]\d\d) +\d+\.\d\d$', printed, re.M)}
    assert len(rows) == 7 and rows['as trained'] == 0
    assert rows['extended outward'] < 1e-5 < rows['stretch: there'] and rows['random periphery'] > 1e-5
    message = fail_tool('measure_resizing.py', 'small.py', 'small.pth', '--to', 101, 69, 67, 12, cwd=tmp_path)
    assert 'the kernels cannot be resized to [101, 69, 67, 12]: kernel_size must be odd' in message
