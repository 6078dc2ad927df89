"""Segmentation through the command line: train, resume, test, and draw, and the errors for invalid input."""

import itertools
import json
import re
import runpy
import shutil
import subprocess
import sys

import cv2
import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CONFIGS, ROOT, TOOLS, tool_env
from mmengine.config import Config
from PIL import Image

from mmpelk.apis.models import load_model
from mmpelk.checkpoints import read_checkpoint
from mmpelk.engine.config import read_config

DEMO = CONFIGS / 'demo/upernet_pelk_atto_digits.py'
ADE = CONFIGS / 'upernet_pelk_t_ade20k.py'
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope='module')
def small_demo(tmp_path_factory):
    """Return the demo config with a model that trains in seconds."""
    path = tmp_path_factory.mktemp('config') / 'small.py'
    path.write_text(
        f"_base_ = '{DEMO}'\n"
        'model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(16, 16, 16, 16))),\n'
        '             decode_head=dict(in_channels=[20] * 4), auxiliary_head=dict(in_channels=20))\n'
        'train_dataloader = dict(batch_size=2)\n'
        'val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False)\n'
        'train_cfg = dict(max_iters=4, val_interval=4)\n'
        'default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))\n'
    )
    return path


@pytest.fixture(scope='module')
def trained(small_demo, digit_scenes):
    """Return the work dir of the small demo after its 4 iterations."""
    work_dir = digit_scenes / 'work'
    command = [sys.executable, str(TOOLS / 'train.py'), str(small_demo), '--work-dir', str(work_dir)]
    subprocess.run(command, cwd=digit_scenes, env=tool_env(), check=True, capture_output=True)
    return work_dir


@pytest.fixture(scope='module')
def ade20k(tmp_path_factory):
    """Return a folder with data/ade/ADEChallengeData2016, with 150 classes and images of several sizes. Label 0 is ignored."""
    home = tmp_path_factory.mktemp('ade')
    rng = np.random.default_rng(0)
    for split, count in (('training', 4), ('validation', 1)):
        for kind in ('images', 'annotations'):
            (home / 'data/ade/ADEChallengeData2016' / kind / split).mkdir(parents=True)
        for index in range(count):
            height, width = (
                rng.integers(150, 260, size=2) if split == 'training' else (160, 160)
            )  # 160 pixels fit into one window
            blocks = rng.integers(0, 151, size=(4, 4)).astype(np.uint8)
            labels = cv2.resize(blocks, (int(width), int(height)), interpolation=cv2.INTER_NEAREST)
            image = np.stack([labels, 255 - labels, labels // 2], -1)
            root = home / 'data/ade/ADEChallengeData2016'
            cv2.imwrite(str(root / f'images/{split}/ADE_{index}.jpg'), image)
            cv2.imwrite(str(root / f'annotations/{split}/ADE_{index}.png'), labels)
    return home


def miou(output):
    return float(re.findall(r'mIoU: ([\d.]+)', output)[-1])


def test_ade20k_config_trains_and_tests(ade20k, run_tool):
    """Train the PeLK-T config at 512x512, unchanged except for its length of one iteration. --auto-scale-lr replaces accumulation."""
    options = ['--work-dir', 'work', '--auto-scale-lr']
    options += ['--cfg-options', 'train_cfg.max_iters=1', 'default_hooks.logger.interval=1']
    output = run_tool('train.py', ADE, *options, cwd=ade20k)
    assert 'There is no GPU. The config asks for AMP, but training runs in float32.' in output
    assert 'Scaling the original LR by 0.125' in output and 'accumulated gradients' not in output
    assert miou(run_tool('test.py', ADE, 'work/iter_1.pth', '--work-dir', 'tested', cwd=ade20k)) == miou(output)
    shutil.rmtree(ade20k / 'work')


def test_train_test_and_draw(trained, small_demo, digit_scenes, run_tool):
    scalars = [json.loads(line) for path in trained.glob('*/vis_data/scalars.json') for line in path.read_text().splitlines()]
    expected = next(record['mIoU'] for record in scalars if 'mIoU' in record)
    arguments = ['--work-dir', 'tested', '--show-dir', 'shown', '--out', 'predictions']
    output = run_tool('test.py', small_demo, trained / 'iter_4.pth', *arguments, cwd=digit_scenes)
    assert miou(output) == pytest.approx(expected)
    assert len(list((digit_scenes / 'shown').rglob('*.png'))) == 4
    predictions = sorted((digit_scenes / 'predictions').iterdir())
    assert len(predictions) == 4
    assert cv2.imread(str(predictions[0]), cv2.IMREAD_UNCHANGED).max() <= 12

    run_tool('plot_training.py', trained, cwd=digit_scenes)
    images = sorted((digit_scenes / 'data/digit_scenes/images/validation').iterdir())[:2]
    video = cv2.VideoWriter(str(digit_scenes / 'scenes.avi'), cv2.VideoWriter_fourcc(*'FFV1'), 5, (128, 128))  # lossless
    for image in images:
        video.write(cv2.imread(str(image)))
    video.release()
    arguments = [*images, 'scenes.avi', '--out-dir', 'overlays', '--grid']
    run_tool('image_demo.py', small_demo, trained / 'iter_4.pth', *arguments, cwd=digit_scenes)
    shapes = {path.name: cv2.imread(str(path)).shape for path in (digit_scenes / 'overlays').glob('*.png')}
    assert shapes == {images[0].stem + '.png': (512, 512, 3), images[1].stem + '.png': (512, 512, 3), 'grid.png': (512, 1024, 3)}
    check_drawn_video(digit_scenes / 'overlays/scenes.mp4', images)
    assert cv2.imread(str(trained / 'curves.png')).std() > 5


def check_drawn_video(path, images):
    """Each frame looks like the picture of the same image next to the video, and not like the image without the prediction."""
    frames = mmcv.VideoReader(str(path))
    assert frames.fps == 5
    for image, frame in zip(images, frames, strict=True):
        assert frame.shape == (512, 512, 3)
        drawn = cv2.imread(str(path.with_name(f'{image.stem}.png')))
        plain = cv2.resize(cv2.imread(str(image)), (512, 512), interpolation=cv2.INTER_CUBIC)
        assert cv2.norm(frame, drawn) < 0.3 * cv2.norm(frame, plain)


def test_a_resumed_run_continues_bit_for_bit(small_demo, digit_scenes, trained, run_tool):
    work_dir = digit_scenes / 'stopped'
    work_dir.mkdir()
    shutil.copy(trained / 'iter_2.pth', work_dir)
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_2.pth'))
    run_tool('train.py', small_demo, '--work-dir', work_dir, '--resume', cwd=digit_scenes)
    straight, resumed = (read_checkpoint(folder / 'iter_4.pth') for folder in (trained, work_dir))
    state = resumed['optimizer']['state']
    assert {float(entry['step']) for entry in state.values()} == {4.0}
    assert [s['last_step'] for s in resumed['param_schedulers']] == [s['last_step'] for s in straight['param_schedulers']]
    assert all(torch.equal(value, straight['state_dict'][name]) for name, value in resumed['state_dict'].items())


def test_pretrained_backbone_and_tta(small_demo, digit_scenes, trained, run_tool):
    options = [
        '--cfg-options',
        'train_cfg.max_iters=1',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
    ]
    name = 'backbone.stages.3.0.pointwise_conv1.weight'
    checkpoint = read_checkpoint(trained / 'iter_4.pth')
    checkpoint['state_dict'][name] += 1
    torch.save(checkpoint, digit_scenes / 'pretrained.pth')
    arguments = ['--work-dir', 'finetuned', '--pretrained', 'pretrained.pth', '--auto-scale-lr', *options]
    output = run_tool('train.py', small_demo, *arguments, cwd=digit_scenes)
    assert 'LR is set based on batch size of 8' in output
    after = read_checkpoint(digit_scenes / 'finetuned/iter_1.pth')['state_dict']
    torch.testing.assert_close(after[name], checkpoint['state_dict'][name], atol=1e-2, rtol=0)  # after one warm-up step

    # The six scales and two flips of the ADE20K configs.
    tta = digit_scenes / 'tta.py'
    pipeline = Config({'tta_pipeline': Config.fromfile(ADE).tta_pipeline}).pretty_text
    tta.write_text(f"_base_ = '{small_demo}'\n{pipeline}")
    arguments = ['--tta', '--work-dir', 'tested', '--out', 'averaged']
    run_tool('test.py', tta, trained / 'iter_4.pth', *arguments, cwd=digit_scenes)
    model = load_model(read_config(str(tta)), trained / 'iter_4.pth', 'cpu')
    for path in sorted((digit_scenes / 'data/digit_scenes/images/validation').iterdir())[:2]:
        written = cv2.imread(str(digit_scenes / f'averaged/{path.stem}.png'), cv2.IMREAD_UNCHANGED)
        image = np.asarray(Image.open(path))
        expected = averaged_prediction(model, image, (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), (False, True))
        assert np.mean(written == expected) > 0.999
        for scales, flips in (((1.0,), (False,)), ((1.0,), (False, True)), ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75), (False,))):
            assert np.mean(written == averaged_prediction(model, image, scales, flips)) < 0.995


@torch.no_grad()
def averaged_prediction(model, image, scales, flips):
    """Return the labels, counted from 1, whose probability is the largest on average over scaled and flipped (H, W, 3) RGB images."""
    total = 0
    for scale, flip in itertools.product(scales, flips):
        scaled = cv2.resize(image, None, fx=scale, fy=scale)
        x = torch.from_numpy((scaled - IMAGENET_MEAN) / IMAGENET_STD).float().permute(2, 0, 1)[None]
        logits = F.interpolate(model(x.flip(3) if flip else x), x.shape[2:], mode='bilinear')
        logits = F.interpolate(logits.flip(3) if flip else logits, image.shape[:2], mode='bilinear')
        total = total + logits.softmax(1)
    return total.argmax(1)[0].numpy() + 1


def test_ema(small_demo, digit_scenes, run_tool):
    """mmengine's EMA validates, tests, and resumes the averaged weights, and saves them as the checkpoint's state_dict."""
    config = digit_scenes / 'ema.py'
    config.write_text(f"_base_ = '{small_demo}'\ncustom_hooks = [dict(type='EMAHook', momentum=0.2, update_buffers=True)]\n")
    output = run_tool('train.py', config, '--work-dir', 'ema', '--cfg-options', 'train_cfg.max_iters=2', cwd=digit_scenes)
    saved = read_checkpoint(digit_scenes / 'ema/iter_2.pth')
    name = 'decode_head.conv_seg.weight'
    assert not torch.equal(saved['state_dict'][name], saved['ema_state_dict'][f'module.{name}'])
    assert miou(run_tool('test.py', config, 'ema/iter_2.pth', '--work-dir', 'tested', cwd=digit_scenes)) == pytest.approx(
        miou(output)
    )
    resumed = run_tool('train.py', config, '--work-dir', 'ema', '--resume', cwd=digit_scenes)
    assert 'resumed epoch: 0, iter: 2' in resumed and (digit_scenes / 'ema/iter_4.pth').exists()


@pytest.fixture
def damaged(digit_scenes, tmp_path):
    """Return a copy of the data that a test may damage."""
    shutil.copytree(digit_scenes / 'data', tmp_path / 'data')
    return tmp_path


def test_missing_files(fail_tool, tmp_path, digit_scenes, trained, small_demo):
    assert 'config nowhere.py does not exist' in fail_tool('train.py', 'nowhere.py', cwd=tmp_path)
    message = fail_tool('train.py', small_demo, cwd=tmp_path)
    assert 'data folder data/digit_scenes/images/training does not exist' in message and 'set train_dataloader' in message
    assert 'checkpoint none.pth does not exist' in fail_tool('test.py', small_demo, 'none.pth', cwd=digit_scenes)
    assert 'checkpoint none.pth does not exist' in fail_tool('train.py', small_demo, '--resume', 'none.pth', cwd=digit_scenes)
    assert 'checkpoint none.pth does not exist' in fail_tool('train.py', small_demo, '--pretrained', 'none.pth', cwd=digit_scenes)
    message = fail_tool('image_demo.py', small_demo, trained / 'iter_4.pth', 'none.jpg', cwd=digit_scenes)
    assert 'image none.jpg does not exist' in message and not (digit_scenes / 'demo_out').exists()


def test_checkpoint_of_another_model(fail_tool, digit_scenes, trained, small_demo):
    for tool, arguments in (
        ('test.py', [DEMO, trained / 'iter_4.pth']),
        ('train.py', [DEMO, '--resume', trained / 'iter_4.pth', '--work-dir', 'other']),
        ('train.py', [DEMO, '--pretrained', trained / 'iter_4.pth', '--work-dir', 'other']),
        (
            'image_demo.py',
            [DEMO, trained / 'iter_4.pth', digit_scenes / 'data/digit_scenes/images/validation/validation_0000.jpg'],
        ),
    ):
        assert 'iter_4.pth belongs to another model' in fail_tool(tool, *arguments, cwd=digit_scenes)


def test_truncated_checkpoint(fail_tool, digit_scenes, trained, small_demo, tmp_path):
    (tmp_path / 'half.pth').write_bytes((trained / 'iter_4.pth').read_bytes()[:5000])
    assert 'half.pth is truncated or not a checkpoint' in fail_tool(
        'test.py', small_demo, tmp_path / 'half.pth', cwd=digit_scenes
    )


@pytest.mark.parametrize('workers', [0, 2])
def test_truncated_image(fail_tool, damaged, small_demo, workers):
    for path in (damaged / 'data/digit_scenes/images/training').iterdir():
        path.write_bytes(path.read_bytes()[:1500])
    options = ['--cfg-options', f'train_dataloader.num_workers={workers}', f'train_dataloader.persistent_workers={workers > 0}']
    message = fail_tool('train.py', small_demo, *options, cwd=damaged)
    assert re.search(r'cannot read data/digit_scenes/images/training/training_\d+.jpg: image file is truncated', message)


def test_truncated_label_map_and_missing_label_map(fail_tool, damaged, small_demo, trained):
    path = damaged / 'data/digit_scenes/annotations/validation/validation_0001.png'
    path.write_bytes(path.read_bytes()[:200])
    assert f'cannot read {path.relative_to(damaged)}' in fail_tool('test.py', small_demo, trained / 'iter_4.pth', cwd=damaged)
    path.unlink()
    assert f'cannot read {path.relative_to(damaged)}' in fail_tool('test.py', small_demo, trained / 'iter_4.pth', cwd=damaged)


def test_label_above_the_classes(fail_tool, damaged, small_demo, trained):
    path = damaged / 'data/digit_scenes/annotations/validation/validation_0002.png'
    cv2.imwrite(str(path), np.full((128, 128), 200, np.uint8))
    message = fail_tool('test.py', small_demo, trained / 'iter_4.pth', cwd=damaged)
    assert f'{path.relative_to(damaged)} contains label 199, but there are 12 classes' in message
    cv2.imwrite(str(path), np.full((64, 128), 1, np.uint8))
    assert 'the sizes must be equal' in fail_tool('test.py', small_demo, trained / 'iter_4.pth', cwd=damaged)


def test_empty_data_folder(fail_tool, damaged, small_demo):
    shutil.rmtree(damaged / 'data/digit_scenes/images/training')
    (damaged / 'data/digit_scenes/images/training').mkdir()
    assert 'images/training is empty' in fail_tool('train.py', small_demo, cwd=damaged)


@pytest.mark.parametrize(
    'options, message',
    [
        (['model.backbone.kernel_sizes=[51,49]'], 'kernel_sizes needs 4 entries, one per stage'),
        (['model.backbone.backend=cutlass'], "backend must be one of .* got 'cutlass'"),
        (['model.backbone.kernel_size=51'], "unexpected keyword argument 'kernel_size'"),
        (['model.backbone.type=PeLC'], 'PeLC'),
    ],
)
def test_wrong_settings(fail_tool, digit_scenes, small_demo, options, message):
    assert re.search(message, fail_tool('train.py', small_demo, '--work-dir', 'w', '--cfg-options', *options, cwd=digit_scenes))


BUGGY = """
from mmengine.registry import MODELS
from mmpelk.models import PeLK

@MODELS.register_module()
class BuggyConvNeXt(PeLK):
    def forward(self, x):
        return {}['features']
"""


def test_errors_in_the_code_of_a_model_keep_their_traceback(digit_scenes, small_demo, tmp_path):
    (tmp_path / 'buggy.py').write_text(BUGGY)
    (tmp_path / 'data').symlink_to(digit_scenes / 'data')
    (tmp_path / 'bug.py').write_text(
        f"_base_ = '{small_demo}'\n"
        "custom_imports = dict(imports=['mmpelk', 'mmpelk.datasets.digit_scenes_dataset', 'buggy'])\n"
        "model = dict(backbone=dict(type='BuggyConvNeXt'))\n"
        'train_dataloader = dict(num_workers=0, persistent_workers=False)\n'
    )
    command = [sys.executable, str(TOOLS / 'train.py'), 'bug.py', '--work-dir', 'w']
    env = {**tool_env(), 'PYTHONPATH': f'{ROOT}:{tmp_path}'}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 1 and 'Traceback (most recent call last)' in result.stderr
    assert 'buggy.py", line 8, in forward' in result.stderr and "KeyError: 'features'" in result.stderr
    assert '\nerror: ' not in result.stderr


@pytest.mark.parametrize('value', [None, '1'])
def test_traceback_on_request(digit_scenes, small_demo, value, monkeypatch, capfd):
    if value:
        monkeypatch.setenv('MMPELK_TRACEBACK', value)
    monkeypatch.chdir(digit_scenes)
    monkeypatch.setattr(sys, 'argv', ['train.py', str(small_demo), '--work-dir', 'w', '--cfg-options', 'model.backbone.nope=1'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(TOOLS / 'train.py'), run_name='__main__')
    printed = capfd.readouterr().err
    assert stop.value.code == 1
    assert re.search(r"error: .*unexpected keyword argument 'nope' \(MMPELK_TRACEBACK=1 shows where\)$", printed.strip())
    assert ('Traceback (most recent call last)' in printed) == (value == '1')
    assert ('build_functions.py' in printed) == (value == '1')


def test_a_backend_that_cannot_run_here(fail_tool, digit_scenes, small_demo, monkeypatch):
    from mmpelk.ops.backends import fft

    monkeypatch.setattr(fft, 'unavailable', lambda device, dtype: 'no FFT in this build')
    options = [
        '--cfg-options',
        'model.backbone.backend=fft',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
    ]
    message = fail_tool('train.py', small_demo, '--work-dir', 'w', *options, cwd=digit_scenes)
    assert "backend 'fft' cannot run on cpu with torch.float32: no FFT in this build; available: " in message


def test_an_image_that_is_too_small(fail_tool, digit_scenes, small_demo, trained, tmp_path):
    cv2.imwrite(str(tmp_path / 'tiny.png'), np.zeros((20, 40, 3), np.uint8))
    message = fail_tool('image_demo.py', small_demo, trained / 'iter_4.pth', tmp_path / 'tiny.png', cwd=digit_scenes)
    assert 'at least 32x32, got 20x40' in message


def test_wrong_options(fail_tool, digit_scenes, small_demo, trained, tmp_path):
    (tmp_path / 'broken.py').write_text('model = dict(')
    assert 'broken.py cannot be read' in fail_tool('train.py', tmp_path / 'broken.py', cwd=digit_scenes)
    if not torch.cuda.is_available():
        assert '--amp needs a GPU' in fail_tool('train.py', small_demo, '--amp', cwd=digit_scenes)
    message = fail_tool('test.py', small_demo, trained / 'iter_4.pth', '--tta', cwd=digit_scenes)
    assert '--tta needs tta_pipeline' in message
    assert 'has no training log' in fail_tool('plot_training.py', tmp_path, cwd=digit_scenes)
    assert 'size must be between 64 and 256 pixels, got 8' in fail_tool('make_digit_scenes.py', 'x', '--size', '8', cwd=tmp_path)
