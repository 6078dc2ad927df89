"""tools/receptive_field.py on a folder of images."""

import json

import cv2
import numpy as np
from conftest import CONFIGS


def test_heat_map_and_ratios(run_tool, fail_tool, tmp_path):
    config = CONFIGS / 'pelk_t_in1k.py'
    (tmp_path / 'images').mkdir()
    for name in 'ab':
        noise = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f'images/{name}.png'), noise)
    options = ['--cfg-options', 'model.backbone.arch=atto', 'model.backbone.layer_scale_init_value=1.0']
    printed = run_tool(
        'receptive_field.py', config, '--images', 'images', '--limit', 1, '--size', 96, '--out', 'field.png', *options
    )
    assert 'untrained, 1 images of 96x96' in printed
    assert cv2.imread(str(tmp_path / 'field.png')).std() > 1
    ratios = json.loads((tmp_path / 'field.json').read_text())
    assert list(ratios) == ['0.2', '0.3', '0.5', '0.99'] and 0 < ratios['0.2'] <= ratios['0.5'] < ratios['0.99'] <= 1
    assert f'99%: {ratios["0.99"]:.1%}' in printed
    assert 'image folder none does not exist' in fail_tool('receptive_field.py', config, '--images', 'none', cwd=tmp_path)
    assert '--out must end in .png, got a.jpg' in fail_tool('receptive_field.py', config, '--out', 'a.jpg', cwd=tmp_path)


def test_backbones_whose_eval_returns_nothing(run_tool, tmp_path):
    """The eval() of mmpretrain's RepLKNet, which Fig. 4 needs, returns None."""
    (tmp_path / 'replknet.py').write_text(
        f"_base_ = '{CONFIGS}/baselines/upernet_replknet_b_ade20k.py'\n"
        'model = dict(backbone=dict(arch=dict(_delete_=True,\n'
        '    large_kernel_sizes=(31, 29, 27, 13), layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), small_kernel=5, dw_ratio=1)))\n'
    )
    printed = run_tool('receptive_field.py', 'replknet.py', '--size', 96, '--out', 'field.png')
    assert 'untrained, 2 images of 96x96' in printed
