"""The output of tools/benchmark.py. tests/analysis checks the measurements of models."""

import json
import re
import time
from functools import partial

import cv2
import pytest
import torch
from conftest import CONFIGS
from torch import nn

from mmpelk.analysis import model_benchmarks, operator_benchmark
from mmpelk.analysis.configs import packaged_config
from mmpelk.analysis.model_benchmarks import SLAK, WIDE
from mmpelk.models import PeLK
from mmpelk.ops import PeripheralConv2d

QUICK = ('--rounds', 1, '--budget', 0.01, '--device', 'cpu')
SMALL = dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16))


@pytest.fixture
def run_here(run_main):
    return partial(run_main, 'benchmark.py')


def rows_of(text):
    """Return the cells of the rows of a table after the name of each row."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines() if line.startswith('| ')]
    return {row[0]: row[1:] for row in rows}


def named_cells(printed, page, names):
    """Return the cells of each row by column. The page has the printed table, with a row for each name."""
    rows = rows_of(printed)
    assert rows == rows_of(page.read_text())
    header = rows.pop('model')
    assert list(rows) == list(names)
    return {name: dict(zip(header, row, strict=True)) for name, row in rows.items()}


def test_operator(run_here, tmp_path):
    printed = run_here('op', '--shape', 1, 3, 9, 31, '--backward', *QUICK, '--out', tmp_path)
    assert '| (1, 3, 9, 31) |' in printed and 'forward and backward' in printed
    page = (tmp_path / 'op_backward.md').read_text()
    assert '`python tools/benchmark.py op --shape 1 3 9 31 --backward' in page and '| (1, 3, 9, 31) |' in page
    record = json.loads((tmp_path / 'op_backward.json').read_text())
    assert {'device', 'threads', 'torch', 'python', 'date', 'command', 'precision'} <= set(record)
    (result,) = record['milliseconds']
    assert result['shape'] == [1, 3, 9, 31] and result['auto']['rounds'] == 1
    timings = [value for value in result.values() if isinstance(value, dict)]
    assert len(timings) >= 8 and all(0 < timing['fastest'] <= timing['median'] <= timing['slowest'] for timing in timings)


def test_sweep_writes_a_plot(monkeypatch, run_here, tmp_path):
    monkeypatch.setattr(operator_benchmark, 'SWEEP', (3, 7))
    run_here('op', '--sweep', '--shape', 1, 2, 5, 3, *QUICK, '--out', tmp_path)
    record = json.loads((tmp_path / 'op_sweep.json').read_text())
    assert [result['shape'][3] for result in record['milliseconds']] == [3, 7]
    assert cv2.imread(str(tmp_path / 'op_sweep.png')).std() > 1


class Classifier(nn.Module):
    """A backbone that runs after a number of seconds."""

    def __init__(self, seconds, backbone):
        super().__init__()
        self.seconds, self.backbone = seconds, backbone

    def forward(self, images):
        time.sleep(self.seconds)
        return self.backbone(images)


def test_models(monkeypatch, run_here, tmp_path):
    models = {
        SLAK: Classifier(0.04, nn.Identity()),
        'PeLK-T': Classifier(0, PeLK(SMALL, kernel_sizes=(13, 13, 13, 13))),
        WIDE: Classifier(0.16, nn.Identity()),
    }
    monkeypatch.setattr(model_benchmarks, 'classifiers', lambda: models)
    printed = run_here('model', '--batch', 3, '--size', 32, '--deploy', *QUICK, '--out', tmp_path)
    assert 'inference, batch 3, 32 px, deployed, float32, medians of up to 1 interleaved rounds' in printed
    assert not any(isinstance(module, PeripheralConv2d) for module in models['PeLK-T'].modules())
    record = json.loads((tmp_path / 'model_32_deploy.json').read_text())
    medians = {name: result['median'] for name, result in record['milliseconds'].items()}
    assert list(medians) == list(models) and medians[SLAK] > 40 and medians[WIDE] > 160
    for name, cells in named_cells(printed, tmp_path / 'model_32_deploy.md', models).items():
        assert float(cells['images/s']) == pytest.approx(3000 / medians[name], abs=0.01)
        assert float(cells['ms']) == pytest.approx(medians[name], abs=0.06)
        assert float(cells[f'over {WIDE}']) == pytest.approx(medians[WIDE] / medians[name], abs=0.001)
        assert float(cells[f'over {SLAK}']) == pytest.approx(medians[SLAK] / medians[name], abs=0.01)


def test_training_steps(monkeypatch, run_here, tmp_path):
    """The peak memory is measured in tests/analysis. Here it is given."""
    memory = {'PeLK-T': 300.0, WIDE: 400.0}
    configs = {}
    for name, depth in (('PeLK-T', 1), (WIDE, 3)):
        backbone = dict(arch=dict(SMALL, depths=(depth,) * 4, _delete_=True), kernel_sizes=(13, 13, 13, 13))
        configs[name] = cfg = packaged_config('demo/upernet_pelk_atto_digits', backbone)
        cfg.model.decode_head.update(in_channels=[20] * 4, channels=8)
        cfg.model.auxiliary_head.update(in_channels=20, channels=8)

    def peak_memory(cfg, batch, size, device, dtype):
        assert (batch, size, device, dtype) == (2, 64, 'cpu', torch.bfloat16)
        return next(memory[name] for name, known in configs.items() if known is cfg)

    monkeypatch.setattr(model_benchmarks, 'segmentors', lambda: configs)
    monkeypatch.setattr(model_benchmarks, 'peak_memory', peak_memory)
    printed = run_here('train', '--batch', 2, '--size', 64, '--precision', 'bfloat16', *QUICK, '--out', tmp_path)
    record = json.loads((tmp_path / 'train.json').read_text())
    assert record['precision'] == 'bfloat16' and record['command'].startswith('python tools/benchmark.py train --batch 2')
    results = record['milliseconds']
    assert {name: result['peak_mib'] for name, result in results.items()} == memory
    table = named_cells(printed, tmp_path / 'train.md', configs)
    for name, cells in table.items():
        assert cells['ms a step'] == f'{results[name]["median"]:.0f}'
        ratio = results[name]['median'] / results[WIDE]['median']
        assert float(cells[f'time over {WIDE}']) == pytest.approx(ratio, abs=0.001)
        assert cells['peak memory (MiB)'] == f'{memory[name]:.0f}'
    assert [list(cells.values())[-1] for cells in table.values()] == ['0.750', '1.000']


def test_wrong_arguments(fail_tool, tmp_path):
    assert 'the last one odd, got (1, 3, 9, 30)' in fail_tool('benchmark.py', 'op', '--shape', 1, 3, 9, 30, cwd=tmp_path)
    assert '--size must be at least 32, got 16' in fail_tool('benchmark.py', 'train', '--size', 16, cwd=tmp_path)
    assert '--batch must be positive, got 0' in fail_tool('benchmark.py', 'model', '--batch', 0, cwd=tmp_path)
    assert '--batch must be at least 2, because' in fail_tool('benchmark.py', 'train', '--batch', 1, cwd=tmp_path)


def memory_of(printed):
    return {name: int(value) for name, value in re.findall(r'\| (.+\.py) \| (\d+) \|', printed)}


def test_memory_of_a_config(run_here, fail_tool, tmp_path):
    """The backbone is inside another one."""
    config = f'{CONFIGS}/demo/upernet_convnext_atto_grown_digits.py'
    (memory,) = memory_of(run_here('memory', config, '--size', 64, '--device', 'cpu')).items()
    assert memory[0] == config and memory[1] > 10
    assert 'config none.py does not exist' in fail_tool('benchmark.py', 'memory', 'none.py', cwd=tmp_path)


def test_memory_of_a_detector(run_here):
    pytest.importorskip('mmcv._ext', reason="mmdet needs mmcv's compiled operators")
    config = f'{CONFIGS}/demo/cascade_mask_rcnn_pelk_atto_digits.py'
    assert memory_of(run_here('memory', config, '--size', 64, '--device', 'cpu'))[config] > 10
