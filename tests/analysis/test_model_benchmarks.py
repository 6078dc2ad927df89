"""Benchmarks of whole models, on small ones, and the sizes of the models that are benchmarked by default."""

import json
from functools import partial

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from mmpelk.analysis.benchmark_report import Settings
from mmpelk.analysis.configs import packaged_config
from mmpelk.analysis.model_benchmarks import SLAK, WIDE, benchmark_inference, benchmark_training, classifiers, segmentors
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


@pytest.fixture
def on_meta(monkeypatch):
    """Build models on the meta device. OpenMMLab's ConvNeXt takes drop path rates out of a tensor, which must have values."""
    monkeypatch.setattr(torch, 'linspace', partial(torch.linspace, device='cpu'))
    with torch.device('meta'):
        yield


def millions(model, density=1.0):
    """The parameters of a model at a density of the matrices and convolutions of its backbone and of a classifier's head."""
    sparse = {id(p) for name, p in model.named_parameters() if name.startswith(('backbone.', 'head.')) and p.ndim in (2, 4)}
    return sum(p.numel() * (density if id(p) in sparse else 1) for p in model.parameters()) / 1e6


def millions_of_convnext(channels):
    """The parameters of ConvNeXt-T's stem, blocks, and downsampling with other channels, counted by hand."""
    blocks = sum(depth * (8 * c * c + 58 * c) for depth, c in zip((3, 3, 9, 3), channels, strict=True))
    between = sum(2 * c + 4 * c * following + following for c, following in zip(channels, channels[1:], strict=False))
    return (51 * channels[0] + blocks + between) / 1e6


PELK, CONVNEXT, UPERNET_PELK, UPERNET_SLAK = 28.7466972, 28.589128, 62.4680452, 64.1945764  # millions, from docs/complexity
WIDTHS = (124, 249, 499, 998)
# PeLK-101's sharing grids are 17, 15, and 15 wide in the first stages, not 13, 13, and 11, and h has the size of the kernels.
LARGER_GRIDS = 3 * 46 * (17**2 - 13**2) + 3 * 93 * (15**2 - 13**2) + 9 * 187 * (15**2 - 11**2)
LARGER = (LARGER_GRIDS + 101**2 - 51**2 + 69**2 - 49**2 + 67**2 - 47**2) / 1e6


def test_default_classifiers(on_meta):
    models = classifiers()
    assert millions(models['PeLK-T'], 0.6) == pytest.approx(PELK)
    assert millions(models['PeLK-101-T']) - millions(models['PeLK-T']) == pytest.approx(LARGER)
    assert millions(models['ConvNeXt-T']) == pytest.approx(CONVNEXT)
    wide = millions_of_convnext(WIDTHS) + (2 * 998 + 999 * 1000) / 1e6  # with the last norm and the head
    assert millions(models[WIDE]) == millions(models[f'{WIDE}, channels_last']) == pytest.approx(wide)
    assert round(millions(models['SLaK-T'], 0.6)) == round(millions(models[SLAK], 0.6)) == 30  # as in SLaK's paper
    assert len(models) == 7
    for model in models.values():
        assert model.eval()(torch.empty(2, 3, 64, 64)).shape == (2, 1000)


def test_default_segmentors(on_meta):
    configs = segmentors()
    init_default_scope('mmseg')
    models = {name: MODELS.build(cfg.model).eval() for name, cfg in configs.items()}
    assert millions(models['PeLK-T'], 0.6) == pytest.approx(UPERNET_PELK)
    assert millions(models['SLaK-T'], 0.6) == pytest.approx(UPERNET_SLAK)
    assert millions(models['PeLK-101-T']) - millions(models['PeLK-T']) == pytest.approx(LARGER)
    heads = millions(models['PeLK-T']) - millions(models['PeLK-T'].backbone)
    assert millions(models[WIDE]) == pytest.approx(millions_of_convnext(WIDTHS) + 2 * sum(WIDTHS) / 1e6 + heads)  # 4 norms
    for model in models.values():
        assert model(torch.empty(2, 3, 64, 64)).shape == (2, 150, 16, 16)
    assert len(models) == 4
