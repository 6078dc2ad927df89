"""Pre-training and transfer through the command line."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS, ROOT, TOOLS, tool_env, train_until_killed
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmpelk.checkpoints import read_checkpoint
from mmpelk.datasets import make_digits
from mmpelk.engine.config import read_config

DEMO = CONFIGS / 'demo/pelk_atto_digits_cls.py'
SMALL_ARCH = 'arch=dict(_delete_=True, depths=(1, 1, 1, 1), channels=(32, 32, 32, 32))'
# All randomness comes from seeds, so that runs can be compared bit for bit.
SMALL = f"""
_base_ = '{DEMO}'
model = dict(backbone=dict({SMALL_ARCH}), head=dict(in_channels=41))
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False, dataset=dict(indices=32, pipeline=_base_.test_pipeline))
val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(indices=16))
total_batch_size = 8
train_cfg = dict(max_epochs=3, val_interval=3)
custom_hooks = [
    dict(type='EMAHook', momentum=0.02, update_buffers=True, priority='ABOVE_NORMAL'),
    dict(type='DynamicSparsityHook', sparsity=0.4, allocation='uniform', interval=1, rate=0.3),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1), logger=dict(interval=4))
"""
DUMP = """
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DumpMasks(Hook):
    priority = 'VERY_LOW'

    def after_train(self, runner):
        hook = next(hook for hook in runner.hooks if hasattr(hook, 'masks'))
        ema = next(hook.ema_model for hook in runner.hooks if hasattr(hook, 'ema_model'))
        state = dict(masks=hook.masks, weights=runner.model.module.state_dict(), averages=ema.module.state_dict())
        torch.save(state, f'{runner.work_dir}/rank{get_rank()}.pth')
"""


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp('cls')
    make_digits(home / 'data/digits', size=32, copies=1)
    (home / 'small.py').write_text(SMALL)
    return home


@pytest.fixture(scope='module')
def trained(home):
    command = [sys.executable, str(TOOLS / 'train.py'), 'small.py', '--work-dir', 'work']
    result = subprocess.run(command, cwd=home, env=tool_env(), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    (home / 'log').write_text(result.stdout + result.stderr)
    return home / 'work'


def load(path):
    return read_checkpoint(path)


def top1(output):
    return float(re.findall(r'accuracy/top1: ([\d.]+)', output)[-1])


def scores(path):
    """The file names and the scores of the classes in predictions that mmengine has written."""
    with open(path, 'rb') as file:
        return {Path(image['img_path']).name: image['pred_score'] for image in pickle.load(file)}


def moments_by_name(config, checkpoint):
    """Return Adam's first moments in a checkpoint by parameter name."""
    cfg = read_config(str(config))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    optimizer = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='OptimWrapper')).optimizer
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group['params']]
    indices = [index for group in checkpoint['optimizer']['param_groups'] for index in group['params']]
    state = checkpoint['optimizer']['state']
    return {names[id(parameter)]: state[index]['exp_avg'] for parameter, index in zip(parameters, indices, strict=True)}


def test_train_and_test(home, trained, run_tool):
    log = (home / 'log').read_text()
    assert 'batch 8 = 1 processes x 4 images x 2 iterations of accumulated gradients' in log
    assert log.count('masked weights changed') == 3 * 4 - 1  # 8 iterations an epoch are 4 steps
    assert re.search(r'DynamicSparsityHook: trained with 0\.(60|599)\d+ of the weights kept, 0\.(60|59)', log)
    assert 'accuracy/top5' in log
    tested = run_tool('test.py', 'small.py', trained / 'epoch_3.pth', '--work-dir', 'tested', cwd=home)
    assert top1(tested) == top1(log)
    images = sorted((home / 'data/digits/val').glob('*/*_0000.jpg'))[:2]
    run_tool('image_demo.py', 'small.py', trained / 'epoch_3.pth', *images, '--out-dir', 'classes', cwd=home)
    assert len(list((home / 'classes').iterdir())) == 2
    run_tool('plot_training.py', trained, cwd=home)
    checkpoint = load(trained / 'epoch_3.pth')
    moments = moments_by_name(home / 'small.py', checkpoint)
    assert checkpoint['sparsity']['masks']
    for name, mask in checkpoint['sparsity']['masks'].items():
        assert not checkpoint['state_dict'][name][~mask].any()
        # Taps that lie outside every image have no gradients.
        assert moments[name][mask].any() and ('large' in name or moments[name][~mask].any()), name
        assert not checkpoint['ema_state_dict'][f'module.{name}'][~mask].any()


def test_resuming_after_a_kill_gives_the_same_masks_bit_for_bit(home, trained, run_tool):
    # Files are synced in this order: epoch_1.pth, last_checkpoint, epoch_2.pth.
    train_until_killed('small.py', home / 'killed', 3, cwd=home)
    assert (home / 'killed/epoch_1.pth').exists() and not (home / 'killed/epoch_2.pth').exists()
    run_tool('train.py', 'small.py', '--work-dir', 'killed', '--resume', cwd=home)
    straight, resumed = (load(folder / 'epoch_3.pth') for folder in (trained, home / 'killed'))
    assert straight['sparsity']['steps'] == resumed['sparsity']['steps'] == 12
    for part in ('state_dict', 'ema_state_dict'):
        for name, value in straight[part].items():
            assert torch.equal(value, resumed[part][name]), name
    for name, mask in straight['sparsity']['masks'].items():
        assert torch.equal(mask, resumed['sparsity']['masks'][name]), name


def test_imagenet_config_trains_and_tests(imagenet, run_tool):
    """The PeLK-T config at 224 pixels, with the smallest backbone and a small batch. Validation and test give the same scores."""
    config = CONFIGS / 'pelk_t_in1k.py'
    (imagenet / 'dumping.py').write_text(
        f"_base_ = '{config}'\n"
        "val_evaluator = [dict(type='Accuracy', topk=(1, 5)), dict(type='DumpResults', out_file_path='validated.pkl')]\n"
    )
    options = [
        '--cfg-options',
        'model.backbone.arch=atto',
        'model.head.in_channels=416',
        'total_batch_size=4',
        'train_cfg.max_epochs=1',
        'default_hooks.logger.interval=1',
    ]
    for loader in ('train', 'val', 'test'):
        options += [f'{loader}_dataloader.{key}' for key in ('batch_size=2', 'num_workers=0', 'persistent_workers=False')]
    output = run_tool('train.py', 'dumping.py', '--work-dir', 'work', *options, cwd=imagenet)
    assert 'batch 4 = 1 processes x 2 images x 2 iterations' in output and 'DynamicSparsityHook: 0.6000 of the weights' in output
    options += ['--out', 'tested.pkl']
    tested = run_tool('test.py', config, 'work/epoch_1.pth', '--work-dir', 'tested', *options, cwd=imagenet)
    assert top1(tested) == top1(output)
    validated, tested = (scores(imagenet / name) for name in ('validated.pkl', 'tested.pkl'))
    assert validated.keys() == tested.keys() == {'0.JPEG', '1.JPEG'} and not torch.equal(*tested.values())
    for name, expected in validated.items():
        assert expected.shape == (1000,) and torch.equal(tested[name], expected)


def test_two_ranks_have_the_same_masks_and_statistics(home, run_tool):
    """BatchNorm is not frozen. The ranks see different images, but have the same running statistics, with and without averaging (EMA)."""
    (home / 'dump.py').write_text(DUMP)
    # The images are augmented at random, so SNIP's scores differ between the ranks.
    (home / 'ranks.py').write_text(
        "_base_ = 'small.py'\n"
        "custom_imports = dict(imports=['mmpelk', 'dump'])\n"
        "snip = dict(type='DynamicSparsityHook', sparsity=0.4, interval=1, rate=0.3)\n"
        "custom_hooks = [_base_.custom_hooks[0], snip, dict(type='DumpMasks')]\n"
        'train_dataloader = dict(dataset=dict(pipeline=_base_.train_pipeline))\n'
    )
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--standalone']
    command += [str(TOOLS / 'train.py'), 'ranks.py', '--work-dir', 'ranks', '--launcher', 'pytorch']
    command += ['--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1', 'total_batch_size=8']
    env = {**tool_env(), 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{ROOT}:{home}'}
    result = subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'batch 8 = 2 processes x 4 images x 1 iterations' in result.stdout + result.stderr
    first, second = (load(home / f'ranks/rank{rank}.pth') for rank in (0, 1))
    assert first['masks'].keys() == second['masks'].keys()
    for name, mask in first['masks'].items():
        assert torch.equal(mask, second['masks'][name]), name
    for part in ('weights', 'averages'):
        for name, value in first[part].items():
            assert torch.equal(value, second[part][name]), (part, name)
    name = 'backbone.stages.0.0.token_mixer.large_norm.running_var'
    assert not torch.equal(first['weights'][name], first['averages'][name])  # EMA averages the statistics too
    # The saved checkpoint is the model that both ranks have validated.
    tested = run_tool('test.py', 'small.py', home / 'ranks/epoch_1.pth', '--work-dir', 'tested', cwd=home)
    assert top1(tested) == top1(result.stdout + result.stderr)


def test_fine_tuning_starts_from_the_whole_classifier(home, trained, run_tool, fail_tool):
    """With a learning rate of 0, the weights do not change: training starts from the checkpoint, with its zeros and its head."""
    (home / 'fine.py').write_text(
        "_base_ = 'small.py'\n"
        'fine_tuning = True\n'
        'train_cfg = dict(max_epochs=1)\n'
        'optim_wrapper = dict(optimizer=dict(lr=0.0))\n'
        "custom_hooks = [dict(type='FixedSparsityHook', prefix='')]\n"
    )
    start = load(trained / 'epoch_3.pth')
    sparse = set(start['sparsity']['masks'])
    # DynamicSparsityHook starts from the zeros of the checkpoint as well.
    dynamic = ['--cfg-options', 'custom_hooks.0.type=DynamicSparsityHook']
    for work_dir, options in (('fine', []), ('dynamic', dynamic)):
        output = run_tool(
            'train.py', 'fine.py', '--work-dir', work_dir, '--pretrained', trained / 'epoch_3.pth', *options, cwd=home
        )
        assert 'the head starts from' in output and 'random' not in output.split('the head starts from')[1].split('\n')[0]
        after = load(home / work_dir / 'epoch_1.pth')
        assert set(after['sparsity']['masks']) == sparse
        for name, value in start['state_dict'].items():
            if 'running' not in name and 'tracked' not in name:
                assert torch.equal(after['state_dict'][name], value), (work_dir, name)
    headless = {name: value for name, value in start['state_dict'].items() if not name.startswith('head.')}
    torch.save(dict(state_dict=headless), home / 'headless.pth')
    output = run_tool('train.py', 'fine.py', '--work-dir', 'headless', '--pretrained', home / 'headless.pth', cwd=home)
    assert 'the head starts from random weights, because the checkpoint has no head of its shape' in output
    message = fail_tool('train.py', 'fine.py', '--work-dir', 'none', cwd=home)
    assert 'config fine.py fine-tunes a trained model; give its checkpoint with --pretrained CHECKPOINT' in message


def test_transfer_keeps_the_zeros(home, trained, digit_scenes, run_tool):
    """UperNet starts from the classifier's backbone with a fixed mask, and then with larger kernels."""
    (home / 'data/digit_scenes').symlink_to(digit_scenes / 'data/digit_scenes')
    (home / 'seg.py').write_text(
        f"_base_ = '{CONFIGS}/demo/upernet_pelk_atto_digits.py'\n"
        f'model = dict(backbone=dict({SMALL_ARCH}),\n'
        '             decode_head=dict(in_channels=[41] * 4), auxiliary_head=dict(in_channels=41))\n'
        'train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False)\n'
        'val_dataloader = test_dataloader = dict(num_workers=0, persistent_workers=False)\n'
        'train_cfg = dict(max_iters=2, val_interval=2)\n'
        'default_hooks = dict(checkpoint=dict(interval=2))\n'
    )
    start = load(trained / 'epoch_3.pth')['state_dict']
    output = run_tool('train.py', 'seg.py', '--work-dir', 'seg', '--pretrained', trained / 'epoch_3.pth', cwd=home)
    kept = re.search(r'FixedSparsityHook: trained with (0\.\d+) of the weights kept, (0\.\d+) are nonzero', output)
    sparse = [value for name, value in start.items() if name.startswith('backbone.') and value.ndim in (2, 4)]
    expected = sum(int(value.count_nonzero()) for value in sparse) / sum(value.numel() for value in sparse)
    assert 0.59 < expected < 0.605 and abs(float(kept[1]) - expected) < 0.002 and abs(float(kept[2]) - expected) < 0.002
    after = load(home / 'seg/iter_2.pth')
    name = 'backbone.stages.3.0.pointwise_conv1.weight'
    assert torch.equal(after['state_dict'][name] == 0, start[name] == 0)
    assert not torch.equal(after['state_dict'][name], start[name])

    larger = ['model.backbone.kernel_sizes=[101,69,67,13]', 'model.backbone.center_size=7', 'model.backbone.resize_mode=stretch']
    output = run_tool(
        'train.py', 'seg.py', '--work-dir', 'larger', '--pretrained', trained / 'epoch_3.pth', '--cfg-options', *larger, cwd=home
    )
    assert 'stage 1: kernels 51x51 (half grid [9, 8, 4, 2, 1, 1, 1]) resized to 101x101' in output and "mode 'stretch'" in output


def test_invalid_input(home, trained, fail_tool):
    checkpoint = str(trained / 'epoch_3.pth')
    message = fail_tool('train.py', 'small.py', '--cfg-options', 'total_batch_size=6', cwd=home)
    assert 'total_batch_size=6 is not a multiple of 1 processes x batch size 4' in message
    options = ['--cfg-options', 'custom_hooks.1.sparsity=1.5']
    assert 'sparsity must be in [0, 1), got 1.5' in fail_tool('train.py', 'small.py', *options, cwd=home)
    options = ['--cfg-options', 'train_dataloader.dataset.data_prefix=none']
    assert 'data folder data/digits/none does not exist' in fail_tool('train.py', 'small.py', *options, cwd=home)

    broken = load(checkpoint)
    masks = broken['sparsity']['masks']
    masks['head.fc.weight'] = torch.ones(3, 3, dtype=torch.bool)
    torch.save(broken, home / 'broken.pth')
    message = fail_tool('train.py', 'small.py', '--resume', 'broken.pth', cwd=home)
    assert "broken.pth: sparsity mask 'head.fc.weight' is torch.bool (3, 3)" in message
    del broken['sparsity']
    torch.save(broken, home / 'broken.pth')
    assert "broken.pth has no 'sparsity' masks" in fail_tool('train.py', 'small.py', '--resume', 'broken.pth', cwd=home)
    larger = ['--cfg-options', 'model.backbone.kernel_sizes=[53,49,47,13]']
    message = fail_tool('train.py', 'small.py', '--resume', checkpoint, *larger, cwd=home)
    assert 'was trained with other kernels (stage 1: kernels 51x51' in message
    init = ['--cfg-options', 'model.backbone.init_cfg.type=Pretrained', f'model.backbone.init_cfg.checkpoint={checkpoint}']
    message = fail_tool('train.py', 'small.py', *init, 'model.backbone.init_cfg.prefix=neck.', cwd=home)
    assert "epoch_3.pth has no weights under prefix 'neck.': its names begin with backbone., head." in message
    init += ['model.backbone.init_cfg.prefix=backbone.', 'model.backbone.small_kernel=3']
    message = fail_tool('train.py', 'small.py', *init, cwd=home)
    assert 'small.weight is (15, 1, 5, 5), the model needs (15, 1, 3, 3)' in message


def test_converting_and_resizing(home, trained, run_tool, fail_tool, tmp_path):
    """The tools convert and resize files, and print reports."""
    from safetensors.torch import save_file

    weights = load(trained / 'epoch_3.pth')['state_dict']
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / 'plain.safetensors')
    printed = run_tool('convert_checkpoint.py', 'small.py', tmp_path / 'plain.safetensors', tmp_path / 'again.pth', cwd=home)
    assert re.search(r'head\.fc\.weight +head\.fc\.weight +1  loaded', printed) and ' missing' not in printed
    again = load(tmp_path / 'again.pth')['state_dict']
    assert again.keys() == weights.keys() and all(torch.equal(again[name], weights[name]) for name in weights)

    sizes = ['--kernel-sizes', 101, 69, 67, 13]
    printed = run_tool('resize_checkpoint.py', trained / 'epoch_3.pth', tmp_path / 'out.pth', *sizes, '--outward', cwd=home)
    assert 'backbone.stages.0.*: kernels 51x51 resized to 101x101, half grid [9, 8, 4, 2, 1, 1, 1] to [25, 9, 8,' in printed
    grids = 'model.backbone.sharing_grids=[[25,9,8,4,2,1,1,1],[10,8,8,4,2,1,1,1],[10,15,4,2,1,1,1],[2,2,1,1,1]]'
    tested = [
        run_tool('test.py', 'small.py', path, '--work-dir', 'resized', *options, cwd=home)
        for path, options in ((trained / 'epoch_3.pth', []), (tmp_path / 'out.pth', ['--cfg-options', grids]))
    ]
    assert top1(tested[0]) == top1(tested[1])

    torch.save({'layer1.weight': torch.zeros(3, 3)}, tmp_path / 'other.pth')
    message = fail_tool('convert_checkpoint.py', 'small.py', tmp_path / 'other.pth', tmp_path / 'no.pth', cwd=home)
    assert 'other.pth does not fit the backbone: it lacks' in message
    message = fail_tool('resize_checkpoint.py', tmp_path / 'other.pth', tmp_path / 'no.pth', *sizes, cwd=home)
    assert 'other.pth has no kernels of a PeLK' in message
    message = fail_tool('resize_checkpoint.py', trained / 'epoch_3.pth', tmp_path / 'no.pth', *sizes[:-1], 12, cwd=home)
    assert 'kernel_size must be a positive odd integer, got 12' in message
    (tmp_path / 'cut.safetensors').write_bytes((tmp_path / 'plain.safetensors').read_bytes()[:500])
    message = fail_tool('convert_checkpoint.py', 'small.py', tmp_path / 'cut.safetensors', tmp_path / 'no.pth', cwd=home)
    assert 'cut.safetensors is truncated' in message
    assert not (tmp_path / 'no.pth').exists()
