"""The table of targets. tests/tools/test_gpu_tool.py writes whole pages from the results of a session."""

from mmpelk.analysis import gpu_page


def test_targets():
    def row(times):
        return dict(ms={name: dict(median=value) for name, value in times.items()})

    plain = row({'F.conv2d': 100.0, 'F.conv2d, channels_last': 60.0, 'auto': 5.0, 'copy': 1.0})
    graphs = row({'auto, CUDA graph': 2.0, 'copy, CUDA graph': 1.0})
    shape = (16, 46, 128, 51)
    items = {f'float32, forward, {shape}': plain, f'float32, CUDA graphs beside plain calls, {shape}': graphs}
    lines = gpu_page.target_lines(dict(steps=dict(operator=items)))
    assert any('at least 10 | 12.00 | yes |' in line for line in lines)  # over the faster layout
    assert any('copy' in line and 'at most 3 | 5.00 | no |' in line for line in lines)
    assert any('CUDA graphs' in line and 'at most 3 | 2.00 | yes |' in line for line in lines)
    assert sum('| not measured |  |' in line for line in lines) == len(lines) - 5
