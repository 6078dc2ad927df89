"""The table of targets. tests/tools/test_gpu_tool.py writes whole pages from the results of a session."""

from mmpelk.analysis import gpu_page


def test_targets():
    times = {'F.conv2d': 100.0, 'auto': 5.0, 'copy': 1.0}
    row = dict(ms={name: dict(median=value) for name, value in times.items()})
    lines = gpu_page.target_lines(dict(steps=dict(operator={'float32, forward, (16, 46, 128, 51)': row})))
    assert any('at least 10 | 20.00 | yes |' in line for line in lines)
    assert any('copy' in line and 'at most 3 | 5.00 | no |' in line for line in lines)
    assert sum('| not measured |  |' in line for line in lines) == len(lines) - 4
