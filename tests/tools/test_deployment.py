"""From a trained model to files that run elsewhere: tools/deploy.py, tools/export.py, tools/onnx_demo.py; and mmpelk.apis."""

import json
import re
import subprocess
import sys

import cv2
import mmcv
import numpy as np
import onnx
import pytest
import torch
from conftest import CONFIGS, TOOLS, save_untrained, tool_env
from torch import nn

from mmpelk.apis import inference, init_model, load_model
from mmpelk.deployment import Exportable, check_onnx, export, fold, metadata, to_onnx
from mmpelk.engine.config import read_config
from mmpelk.utils.errors import InputError

BACKBONE = """backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(8, 16, 16, 16)),
        kernel_sizes=(21, 15, 13, 7),
        layer_scale_init_value=1.0,
    )"""
SEGMENTOR = f"""
_base_ = '{CONFIGS}/demo/upernet_pelk_atto_digits.py'
model = dict(
    {BACKBONE},
    decode_head=dict(in_channels=[10, 20, 20, 20], channels=8),
    auxiliary_head=dict(in_channels=20, channels=8),
)
"""
CLASSIFIER = f"""
_base_ = '{CONFIGS}/demo/pelk_atto_digits_cls.py'
model = dict({BACKBONE}, head=dict(in_channels=20))
"""
DETECTOR = f"""
_base_ = '{CONFIGS}/demo/cascade_mask_rcnn_pelk_atto_digits.py'
model = dict({BACKBONE}, neck=dict(in_channels=[10, 20, 20, 20]))
"""


def save_model(folder, name, text):
    """A config, and a checkpoint of its model."""
    (folder / f'{name}.py').write_text(text)
    save_untrained(folder / f'{name}.py', folder / f'{name}.pth')


@pytest.fixture(scope='module')
def home(digit_scenes):
    save_model(digit_scenes, 'seg', SEGMENTOR)
    save_model(digit_scenes, 'cls', CLASSIFIER)
    return digit_scenes


@pytest.fixture(scope='module')
def images(home):
    return sorted((home / 'data/digit_scenes/images/validation').iterdir())


@pytest.mark.parametrize('options', [[], ['--keep-grid']])
def test_a_folded_checkpoint_predicts_the_same(home, images, options, tmp_path, run_tool):
    output = run_tool('deploy.py', 'seg.py', 'seg.pth', tmp_path / 'folded.pth', *options, cwd=home)
    assert 'features differ by' in output
    folded = init_model(tmp_path / 'folded.py', tmp_path / 'folded.pth', 'cpu')
    assert not any('running_var' in name for name in folded.model.backbone.state_dict())
    expected = inference(init_model(home / 'seg.py', home / 'seg.pth', 'cpu'), images, progress=False)
    for sample, reference in zip(inference(folded, images, progress=False), expected, strict=True):
        agreement = sample.pred_sem_seg.data == reference.pred_sem_seg.data
        assert agreement.shape == (1, 128, 128) and agreement.float().mean() > 0.999 and 'seg_logits' not in sample


def test_onnx_file_and_a_picture_by_onnxruntime_alone(home, images, tmp_path, run_tool):
    """Exported with free sizes; drawn in a process that cannot import torch."""
    arguments = ['seg.py', 'seg.pth', tmp_path / 'seg.onnx', '--dynamic', '--size', 64, 96, '--images', *images]
    output = run_tool('export.py', *arguments, cwd=home)
    assert '100.00% of the maxima agree' in output and 'on 4 images' in output
    cv2.imwrite(str(tmp_path / 'odd.png'), cv2.resize(cv2.imread(str(images[0])), (131, 77)))
    script = f"""
import runpy, sys
sys.modules.update(torch=None, mmengine=None, mmpelk=None)  # importing them fails
runpy.run_path({str(TOOLS / 'onnx_demo.py')!r}, run_name='__main__')
"""
    command = [
        sys.executable,
        '-c',
        script,
        tmp_path / 'seg.onnx',
        *images,
        tmp_path / 'odd.png',
        '--out-dir',
        tmp_path / 'drawn',
    ]
    subprocess.run(command, check=True, env=tool_env())
    assert cv2.imread(str(tmp_path / 'drawn/odd.png')).shape == (77 * 3, 131 * 3, 3)
    assert len(list((tmp_path / 'drawn').iterdir())) == 5


@pytest.mark.parametrize('part', ['model', 'backbone'])
def test_classifier(home, tmp_path, part):
    cfg = read_config(str(home / 'cls.py'))
    trained, model = (load_model(cfg, str(home / 'cls.pth'), 'cpu') for _ in range(2))
    assert fold(model) < 1e-4
    module = Exportable(model, part)
    program = export(module, 2, (64, 48))
    pixels = 255 * torch.rand(2, 3, 64, 48)
    # Torch's own operators only, and the same numbers as the whole training model.
    assert {node.target.namespace for node in program.graph.nodes if hasattr(node.target, 'namespace')} == {'aten'}
    expected = trained(trained.data_preprocessor(dict(inputs=pixels.flip(1)))['inputs'], mode='tensor')
    if part == 'model':
        torch.testing.assert_close(program.module()(pixels), expected, rtol=1e-4, atol=1e-5)
    content = to_onnx(program, metadata(module, 2, (64, 48), False))
    difference, agreement = check_onnx(content, Exportable(trained, part), [pixels])
    assert difference < 1e-4 and agreement == 1.0
    exported = onnx.load_from_string(content)
    assert {entry.domain: entry.version for entry in exported.opset_import}[''] == 20
    properties = {entry.key: json.loads(entry.value) for entry in exported.metadata_props}
    assert properties['task'] == 'classification' and properties['size'] == [64, 48] and len(properties['classes']) == 12


def test_what_differs_is_not_written(home):
    model = load_model(read_config(str(home / 'cls.py')), str(home / 'cls.pth'), 'cpu')
    module = Exportable(model, 'model')
    with pytest.raises(InputError, match='fold the backbone before'):
        export(module, 1, (32, 32))
    model.backbone.switch_to_deploy(keep_grid=True)
    fold(model)
    content = to_onnx(export(module, 1, (32, 32)), metadata(module, 1, (32, 32), False))
    nn.init.normal_(model.head.fc.weight)
    with pytest.raises(InputError, match='differs from torch by'):
        check_onnx(content, module, [255 * torch.rand(1, 3, 32, 32)])
    with pytest.raises(InputError, match='onnxruntime cannot load'):
        check_onnx(content[:100], module, [])


def test_detectors_give_their_pyramid(tmp_path):
    save_model(tmp_path, 'det', DETECTOR)
    model = load_model(read_config(str(tmp_path / 'det.py')), str(tmp_path / 'det.pth'), 'cpu')
    with pytest.raises(InputError, match="take 'neck' or 'backbone', or MMDeploy"):
        Exportable(model, 'model')
    pixels = 255 * torch.rand(1, 3, 64, 96)
    module = Exportable(model, 'neck')
    expected = module(pixels)
    fold(model)
    outputs = export(module, 1, (64, 96)).module()(pixels)
    assert len(outputs) == len(expected) >= 4
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-4)


def test_folders_and_videos(home, images, tmp_path):
    video = cv2.VideoWriter(str(tmp_path / 'scenes.mp4'), cv2.VideoWriter_fourcc(*'mp4v'), 5, (128, 128))
    for path in images[:3]:
        video.write(cv2.imread(str(path)))
    video.release()
    model = init_model(home / 'seg.py', home / 'seg.pth', 'cpu')
    samples = inference(model, [images[0].parent, tmp_path / 'scenes.mp4'], tmp_path / 'out')
    assert len(samples) == 4 + 3
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {'scenes.mp4', *(f'{path.stem}.png' for path in images)}
    assert len(mmcv.VideoReader(str(tmp_path / 'out/scenes.mp4'))) == 3
    [sample] = inference(init_model(home / 'cls.py', home / 'cls.pth', 'cpu'), cv2.imread(str(images[0])), progress=False)
    assert sample.pred_score.shape == (10,)


def test_nan_and_foreign_preparation_are_refused(home):
    cfg = read_config(str(home / 'cls.py'), dict(model=dict(backbone=dict(backend='dense'))))
    model = load_model(cfg, str(home / 'cls.pth'), 'cpu')
    nn.init.constant_(model.backbone.stages[1][0].norm.weight, float('nan'))
    with pytest.raises(InputError, match='changes the outputs by nan'):
        fold(model)
    model.data_preprocessor.std = model.data_preprocessor.std * 2
    Exportable(model, 'model')
    model.data_preprocessor.forward = lambda data, training: dict(inputs=torch.zeros(1, 3, 64, 64))
    with pytest.raises(InputError, match='does more than normalise'):
        Exportable(model, 'model')


def test_configs_that_name_less(home, images, tmp_path):
    """No palette, no visualizer, and the normalization beside the model, as in mmpretrain's own configs."""
    checkpoint = torch.load(home / 'seg.pth')
    del checkpoint['meta']['dataset_meta']['palette']
    torch.save(checkpoint, tmp_path / 'seg.pth')
    cfg = read_config(str(home / 'seg.py'))
    cfg.pop('visualizer')
    inference(init_model(cfg, tmp_path / 'seg.pth', 'cpu'), images[0], tmp_path / 'drawn', progress=False)
    assert (tmp_path / 'drawn' / f'{images[0].stem}.png').is_file()
    text = '\ndata_preprocessor = model.pop("data_preprocessor")'
    (tmp_path / 'base.py').write_text(read_config(str(home / 'cls.py')).pretty_text + text)
    cfg = read_config(str(tmp_path / 'base.py'))
    assert cfg.model.data_preprocessor.mean == cfg.data_preprocessor.mean


@pytest.fixture
def bad(tmp_path):
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'empty.png').write_bytes(b'')
    (tmp_path / 'none').mkdir()
    (tmp_path / 'broken.mp4').write_bytes(bytes(100))
    video = cv2.VideoWriter(str(tmp_path / 'frames.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 5, (64, 64))
    video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    content = (tmp_path / 'frames.avi').read_bytes()
    start = content.index(b'\xff\xd8')  # of the frame's JPEG
    (tmp_path / 'frames.avi').write_bytes(content[:start] + bytes(600) + content[start + 600 :])
    cv2.imwrite(str(tmp_path / 'huge.png'), np.zeros((20000, 20000), np.uint8))
    return tmp_path


def test_bad_input_gets_one_line(home, images, bad, fail_tool):
    model = ['seg.py', 'seg.pth']
    for tool, arguments, message in (
        ('image_demo.py', [*model, bad / 'text.jpg'], 'cannot read image .*text.jpg'),
        ('image_demo.py', [*model, bad / 'empty.png'], 'cannot read image .*empty.png'),
        ('image_demo.py', [*model, bad / 'huge.png'], 'huge.png (is too large|has 20000x20000 pixels)'),
        ('image_demo.py', [*model, bad / 'none'], 'none holds no image'),
        ('image_demo.py', [*model, bad / 'broken.mp4'], 'cannot read video .*broken.mp4'),
        ('image_demo.py', [*model, bad / 'no.mp4'], 'no.mp4 does not exist'),
        ('image_demo.py', [*model, bad / 'frames.avi'], 'none of its frames can be decoded'),
        ('image_demo.py', [*model, images[0], images[0]], 'would be drawn as'),
        ('image_demo.py', [*model, images[0], '--device', 'foo'], "device 'foo' cannot be used"),
        ('image_demo.py', [*model, images[0], '--cfg-options', 'model.type=Nope'], 'the config cannot be built'),
        ('image_demo.py', [*model, images[0], '--cfg-options', 'test_dataloader=None'], 'no test_dataloader.dataset.pipeline'),
        ('deploy.py', [*model, 'seg.pth'], 'seg.pth is read here and would be overwritten'),
        ('deploy.py', [*model, bad / 'text.jpg/out.pth'], 'text.jpg: '),
        ('deploy.py', [*model, bad / 'out.pth', '--keep-grid', '--cfg-options', 'model.backbone.deploy=plain'], 'without grids'),
        ('export.py', [*model, bad / 'text.jpg/out.onnx'], 'text.jpg: '),
        ('export.py', [*model, bad / 'out.onnx', '--batch', 0], 'for 0 images'),
        ('deploy.py', ['no.py', 'seg.pth', bad / 'out.pth'], 'config no.py does not exist'),
        ('deploy.py', ['seg.py', 'no.pth', bad / 'out.pth'], 'checkpoint no.pth does not exist'),
        ('deploy.py', [*model, bad / 'out.onnx'], 'must end in .pth'),
        ('deploy.py', [*model, bad / 'out.pth', '--cfg-options', 'model.backbone.pos_embed_mode=inside'], 'cannot be folded'),
        ('export.py', [*model, bad / 'out.onnx', '--size', 31, 64], 'for 1 images of 31x64: at least 1 of 32x32'),
        ('export.py', [*model, bad / 'out.onnx', '--size', 63, 64, '--dynamic'], 'at least 1 of 64x64 where sizes are free'),
        ('export.py', ['cls.py', 'cls.pth', bad / 'out.onnx'], 'no crop size; give --size H W'),
        ('export.py', [*model, bad / 'out.tflite'], 'must end in .onnx or .pt2'),
        ('export.py', [*model, bad / 'out.onnx', '--images', bad / 'text.jpg'], 'cannot read image'),
        ('onnx_demo.py', [bad / 'text.jpg', bad / 'text.jpg'], 'is no ONNX model'),
        ('demo_app.py', [*model, '--port', 70000], '--port must lie between 1 and 65535, got 70000'),
    ):  # fmt: skip
        out = ['--out-dir', bad / 'out'] if tool == 'image_demo.py' else []
        with_message = fail_tool(tool, *arguments[:2], *out, *arguments[2:], cwd=home)
        assert re.search(message, with_message), with_message
    assert not list(bad.glob('out*'))
