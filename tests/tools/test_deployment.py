"""Deployment through the command line: tools/deploy.py, tools/export.py, tools/onnx_demo.py, and tools/image_demo.py."""

import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import TOOLS, tool_env
from small_models import CLASSIFIER, SEGMENTOR, save_model

from mmpelk.apis import inference, init_model


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
    """The model is exported with dynamic sizes, and drawn in a process that cannot import torch."""
    arguments = ['seg.py', 'seg.pth', tmp_path / 'seg.onnx', '--dynamic', '--size', 64, 96, '--images', *images]
    output = run_tool('export.py', *arguments, cwd=home)
    assert '100.00% of the predictions agree' in output and 'on 4 images' in output
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
    start = content.index(b'\xff\xd8')  # the start of the frame's JPEG
    (tmp_path / 'frames.avi').write_bytes(content[:start] + bytes(600) + content[start + 600 :])
    cv2.imwrite(str(tmp_path / 'huge.png'), np.zeros((20000, 20000), np.uint8))
    return tmp_path


def test_bad_input_gets_one_line(home, images, bad, fail_tool):
    model = ['seg.py', 'seg.pth']
    for tool, arguments, message in (
        ('image_demo.py', [*model, bad / 'text.jpg'], 'cannot read image .*text.jpg'),
        ('image_demo.py', [*model, bad / 'empty.png'], 'cannot read image .*empty.png'),
        ('image_demo.py', [*model, bad / 'huge.png'], 'huge.png (is too large|has 20000x20000 pixels)'),
        ('image_demo.py', [*model, bad / 'none'], 'none has no images'),
        ('image_demo.py', [*model, bad / 'broken.mp4'], 'cannot read video .*broken.mp4'),
        ('image_demo.py', [*model, bad / 'no.mp4'], 'no.mp4 does not exist'),
        ('image_demo.py', [*model, bad / 'frames.avi'], 'none of its frames can be decoded'),
        ('image_demo.py', [*model, images[0], images[0]], 'would be drawn as'),
        ('image_demo.py', [*model, images[0], '--device', 'foo'], "device 'foo' cannot be used"),
        ('image_demo.py', [*model, images[0], '--cfg-options', 'model.type=Nope'], 'the config cannot be built'),
        ('image_demo.py', [*model, images[0], '--cfg-options', 'test_dataloader=None'], 'no test_dataloader.dataset.pipeline'),
        ('deploy.py', [*model, 'seg.pth'], 'seg.pth is an input and would be overwritten'),
        ('deploy.py', [*model, bad / 'text.jpg/out.pth'], 'text.jpg is not a directory'),
        ('deploy.py', [*model, bad / 'out.pth', '--keep-grid', '--cfg-options', 'model.backbone.deploy=plain'], 'without grids'),
        ('export.py', [*model, bad / 'text.jpg/out.onnx'], 'text.jpg is not a directory'),
        ('export.py', [*model, bad / 'out.onnx', '--batch', 0], 'for 0 images'),
        ('deploy.py', ['no.py', 'seg.pth', bad / 'out.pth'], 'config no.py does not exist'),
        ('deploy.py', ['seg.py', 'no.pth', bad / 'out.pth'], 'checkpoint no.pth does not exist'),
        ('deploy.py', [*model, bad / 'out.onnx'], 'must end in .pth'),
        ('deploy.py', [*model, bad / 'out.pth', '--cfg-options', 'model.backbone.pos_embed_mode=inside'], 'cannot be folded'),
        ('export.py', [*model, bad / 'out.onnx', '--size', 31, 64], 'for 1 images of 31x64; expected at least 1 image of 32x32'),
        ('export.py', [*model, bad / 'out.onnx', '--size', 63, 64, '--dynamic'], 'at least 1 image of 64x64 with dynamic sizes'),
        ('export.py', ['cls.py', 'cls.pth', bad / 'out.onnx'], 'no crop size; use --size H W'),
        ('export.py', [*model, bad / 'out.tflite'], 'must end in .onnx or .pt2'),
        ('export.py', [*model, bad / 'out.onnx', '--images', bad / 'text.jpg'], 'cannot read image'),
        ('onnx_demo.py', [bad / 'text.jpg', bad / 'text.jpg'], 'is not an ONNX model'),
        ('demo_app.py', [*model, '--port', 70000], '--port must lie between 1 and 65535, got 70000'),
    ):  # fmt: skip
        out = ['--out-dir', bad / 'out'] if tool == 'image_demo.py' else []
        with_message = fail_tool(tool, *arguments[:2], *out, *arguments[2:], cwd=home)
        assert re.search(message, with_message), with_message
    assert not list(bad.glob('out*'))
