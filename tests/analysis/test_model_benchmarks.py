"""Benchmarks of whole models, on small ones."""

import json

import pytest
from mmengine.registry import MODELS, init_default_scope

from mmpelk.analysis.benchmark_report import Settings
from mmpelk.analysis.configs import packaged_config
from mmpelk.analysis.model_benchmarks import SLAK, WIDE, benchmark_inference, benchmark_training
from mmpelk.ops import PeripheralConv2d

ARCH = dict(_delete_=True, depths=(1, 1, 1, 1), channels=(32, 32, 32, 32))
QUICK = Settings(rounds=1, budget=0.01)


def columns(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.parametrize('deploy', [False, True])
def test_inference(deploy):
    init_default_scope('mmpretrain')
    cfg = packaged_config('demo/pelk_atto_digits_cls', dict(arch=ARCH))
    cfg.model.head.in_channels = 41
    models = {name: MODELS.build(cfg.model) for name in ('PeLK-T', WIDE, SLAK)}
    report = benchmark_inference(models, 2, 32, deploy, QUICK)
    assert report.name == ('model_32_deploy' if deploy else 'model_32')
    assert any(isinstance(module, PeripheralConv2d) for module in models['PeLK-T'].modules()) is not deploy
    assert set(report.results) == set(models) and all(times['median'] > 0 for times in report.results.values())
    cells = columns(report.lines[2])
    median = report.results['PeLK-T']['median']
    assert cells[0] == 'PeLK-T' and float(cells[1]) == pytest.approx(2000 / median, abs=0.01)
    assert float(cells[5]) == pytest.approx(report.results[SLAK]['median'] / median, abs=0.01) and cells[6] == '1.51'


def test_training(tmp_path):
    cfg = packaged_config('demo/upernet_pelk_atto_digits', dict(arch=ARCH))
    cfg.merge_from_dict({'model.decode_head.in_channels': [41] * 4, 'model.auxiliary_head.in_channels': 41})
    report = benchmark_training({WIDE: cfg}, 2, 64, QUICK)
    report.write(tmp_path / 'new', 'a command')
    record = json.loads((tmp_path / 'new/train.json').read_text())
    assert record['command'] == 'a command' and record['precision'] == 'float32' and record['threads'] > 0
    result = record['milliseconds'][WIDE]
    assert result['median'] > 0 and result['peak_mib'] > 10
    page = (tmp_path / 'new/train.md').read_text()
    row = next(line for line in page.splitlines() if line.startswith(f'| {WIDE} |'))
    assert columns(row)[3] == columns(row)[5] == '1.000' and columns(row)[4] == f'{result["peak_mib"]:.0f}'
    assert page.startswith('# UperNet, batch 2, 64 px, float32, medians of up to 1 interleaved rounds')
