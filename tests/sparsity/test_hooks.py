"""Run the hooks in a real mmengine Runner with a tiny PeLK."""

import copy
import json
import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from torch import nn

from mmpelk.checkpoints.reading import read_checkpoint
from mmpelk.models import PeLK
from mmpelk.sparsity import DynamicSparsityHook, FixedSparsityHook
from mmpelk.sparsity.hooks import SparsityHook
from mmpelk.utils.errors import InputError
from mmpelk.utils.torch_compat import hook_steps

SMALL = dict(depths=(1, 1, 1, 1), channels=(8, 8, 16, 16))


@MODELS.register_module()
class SmallClassifier(BaseModel):
    def __init__(self, with_cp=False):
        super().__init__()
        self.backbone = PeLK(SMALL, out_indices=(3,), gap_before_final_norm=True, layer_scale_init_value=1.0, with_cp=with_cp)
        self.head = nn.Linear(20, 4)

    def forward(self, images, labels, mode):
        return dict(
            loss=nn.functional.cross_entropy(self.head(self.backbone(torch.stack(list(images)))[0]), torch.tensor(labels))
        )


@HOOKS.register_module()
class CheckMasks(Hook):
    """Check after every iteration that pruned weights and their averages are 0 and no layer's count changes."""

    priority = 'VERY_LOW'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        sparsity = next(hook for hook in runner.hooks if isinstance(hook, SparsityHook))
        weights = dict(runner.model.named_parameters())
        counts = {name: int(mask.sum()) for name, mask in sparsity.masks.items()}
        assert counts == getattr(self, 'counts', counts)
        self.counts = counts
        averages = [hook.ema_model.module for hook in runner.hooks if hasattr(hook, 'ema_model')]
        for name, mask in sparsity.masks.items():
            assert not weights[name][~mask].any(), name
            for average in averages:
                assert not dict(average.named_parameters())[name][~mask].any()


DATA = [(torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(i)), i % 4) for i in range(8)]


def runner(work_dir, hook, iterations, accumulate=1, ema=True, checkpoint=1000, model=None, **options):
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=DATA,
        sampler=dict(type='InfiniteSampler', shuffle=False),
        collate_fn=dict(type='pseudo_collate'),
    )
    hooks = [hook, dict(type='CheckMasks')] + ([dict(type='EMAHook', momentum=0.1, update_buffers=True)] if ema else [])
    return Runner(
        model=model or dict(type='SmallClassifier'),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=iterations),
        optim_wrapper=dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05), accumulative_counts=accumulate
        ),
        custom_hooks=hooks,
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=checkpoint)),
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        experiment_name=str(work_dir),
        **options,
    )


def masks_of(run):
    return next(hook for hook in run.hooks if isinstance(hook, SparsityHook)).masks


def overall(run):
    weights = {name: p for name, p in run.model.named_parameters() if p.ndim in (2, 4)}
    return sum(int((p != 0).sum()) for p in weights.values()) / sum(p.numel() for p in weights.values())


@pytest.mark.parametrize('allocation', ['snip', 'erk', 'uniform'])
def test_fifty_rounds(tmp_path, allocation):
    hook = dict(type='DynamicSparsityHook', allocation=allocation, interval=1, rate=0.5)
    run = runner(tmp_path, hook, 51, checkpoint=51)
    run.train()  # CheckMasks checks each iteration
    sparsity = next(hook for hook in run.hooks if isinstance(hook, DynamicSparsityHook))
    assert sparsity.steps == 51 and abs(sparsity.density() - 0.6) < 0.002
    # Taps beyond the 8x8 map get no gradient, so the few that grew there stay at 0.
    assert abs(overall(run) - 0.6) < 0.005
    saved = read_checkpoint(tmp_path / 'iter_51.pth')
    assert saved['sparsity']['steps'] == 51
    for name, mask in sparsity.masks.items():
        assert torch.equal(saved['sparsity']['masks'][name], mask)
        assert not saved['state_dict'][name][~mask].any() and not saved['ema_state_dict'][f'module.{name}'][~mask].any()
    dense = [name for name, p in run.model.named_parameters() if p.ndim in (2, 4) and name not in sparsity.masks]
    assert all((dict(run.model.named_parameters())[name] != 0).float().mean() > 0.99 for name in dense)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert re.search(r'DynamicSparsityHook: 0\.(60|599)\d* of the weights kept overall', log)
    assert 'backbone.stages.3.0.pointwise_conv1.weight' in log
    assert log.count(' masked weights changed, 0.') == 50
    scalars = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    assert scalars[-1]['density'] == pytest.approx(0.6, abs=0.002) and scalars[-1]['prune_rate'] < 0.02


def masked_steps(optimizer, weight, mask, gradients):
    """Take optimizer steps with a SparsityHook that keeps ``mask``, and return the hook."""
    hook = FixedSparsityHook()
    hook._weights, hook.masks = {'w': weight}, {'w': mask}
    hook_steps(optimizer, lambda: None, lambda: hook.after_step(optimizer))
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return hook


def test_moments_of_pruned_weights_follow_their_gradients():
    """As in SLaK, the moments of Adam are not masked, so a weight that grows again takes a step of the usual size."""
    mask = torch.tensor([True, False])
    gradients = [torch.full((2,), 0.5)] * 50
    weight, free = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer, reference = (torch.optim.AdamW([parameter], lr=0.01) for parameter in (weight, free))
    hook = masked_steps(optimizer, weight, mask, gradients)
    for gradient in gradients:
        free.grad = gradient.clone()
        reference.step()
    for name in ('exp_avg', 'exp_avg_sq'):
        assert torch.equal(optimizer.state[weight][name], reference.state[free][name]) and optimizer.state[weight][name][1] > 0
    assert weight[1] == 0
    hook.masks['w'] = torch.tensor([True, True])
    weight.grad = gradients[0].clone()
    optimizer.step()
    # With moments reset to zero, the step would be 0.1 / sqrt(0.001) = 3.2 times the learning rate.
    assert weight[1].item() == pytest.approx(-0.01, rel=0.01)


def test_momentum_of_sgd_is_masked():
    mask = torch.tensor([True, False])
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.01, momentum=0.9)
    masked_steps(optimizer, weight, mask, [torch.ones(2)] * 3)
    assert optimizer.state[weight]['momentum_buffer'].tolist() == pytest.approx([2.71, 0])


def test_the_average_of_a_grown_weight_starts_at_its_value(tmp_path):
    """Update the masks in the last step. Averages of grown weights then equal the weights; the others lag behind."""
    hook = dict(type='DynamicSparsityHook', allocation='uniform', interval=5, rate=0.5)
    run = runner(tmp_path, hook, 6)
    before = {}
    sparsity = next(hook for hook in run.hooks if isinstance(hook, DynamicSparsityHook))
    step = sparsity.before_step

    def remember(runner):
        before.update({name: mask.clone() for name, mask in sparsity.masks.items()})
        step(runner)

    sparsity.before_step = remember
    run.train()
    weights = dict(run.model.named_parameters())
    averages = dict(next(hook for hook in run.hooks if hasattr(hook, 'ema_model')).ema_model.module.named_parameters())
    name = 'backbone.stages.3.0.pointwise_conv1.weight'
    grown, kept = sparsity.masks[name] & ~before[name], sparsity.masks[name] & before[name]
    assert grown.sum() > 20 and weights[name][grown].all()
    torch.testing.assert_close(averages[name][grown], weights[name][grown])
    assert (averages[name][kept] != weights[name][kept]).float().mean() > 0.9


def test_dynamic_sparsity_starts_from_the_zeros_of_sparse_weights(tmp_path):
    start = sparse_start()
    torch.save(dict(state_dict=start.state_dict()), tmp_path / 'sparse.pth')
    hook = dict(type='DynamicSparsityHook', interval=100)
    run = runner(tmp_path, hook, 2, load_from=str(tmp_path / 'sparse.pth'))
    run.train()
    before = dict(start.named_parameters())
    assert set(masks_of(run)) == {name for name, p in before.items() if p.ndim in (2, 4)}
    for name, mask in masks_of(run).items():
        assert torch.equal(mask, before[name] != 0), name
    assert 'the loaded weights are sparse; training starts from their zeros' in next(tmp_path.glob('*/*.log')).read_text()


def test_snip_takes_plain_images_and_cross_entropy_on_one_whole_batch():
    """As in SLaK: no mixup, no label smoothing, and BatchNorm over the whole batch."""
    pytest.importorskip('mmpretrain')
    from mmengine.registry import init_default_scope
    from mmpretrain.structures import DataSample

    init_default_scope('mmpretrain')
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            data_preprocessor=dict(num_classes=4),
            backbone=dict(type='PeLK', arch=SMALL, out_indices=(3,), gap_before_final_norm=True, layer_scale_init_value=1.0),
            head=dict(
                type='LinearClsHead', num_classes=4, in_channels=20, loss=dict(type='LabelSmoothLoss', label_smooth_val=0.5)
            ),
            train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)),
        )
    )
    data = [dict(inputs=image, data_samples=DataSample().set_gt_label(label)) for image, label in DATA * 5]
    loader = torch.utils.data.DataLoader(data, batch_size=40, collate_fn=pseudo_collate)
    scores = DynamicSparsityHook()._snip_scores(SimpleNamespace(train_dataloader=loader), model)
    assert model.data_preprocessor.batch_augments is not None and type(model.head.loss_module).__name__ == 'LabelSmoothLoss'

    logits = model.train()(torch.stack([image for image, _ in DATA * 5]))  # the batch's order does not matter
    nn.functional.cross_entropy(logits, torch.tensor([label for _, label in DATA * 5])).backward()
    for name, parameter in model.named_parameters():
        if parameter.ndim in (2, 4):
            expected = (parameter * parameter.grad).abs().detach()
            torch.testing.assert_close(scores[name], expected, rtol=1e-3, atol=1e-3 * expected.max().item(), msg=name)


def test_rate_follows_the_cosine():
    hook = DynamicSparsityHook(rate=0.3, final_rate=0.005)
    hook._total_steps = 100
    rates = []
    for hook.steps in (0, 50, 100):
        rates.append(hook.current_rate())
    assert rates == pytest.approx([0.3, 0.1525, 0.005])


@pytest.mark.parametrize('options', [dict(accumulate=3), dict(model=dict(type='SmallClassifier', with_cp=True))])
def test_steps_of_the_optimizer_count(tmp_path, options):
    run = runner(tmp_path, dict(type='DynamicSparsityHook', allocation='erk', interval=2, rate=0.5), 12, **options)
    run.train()
    steps = 12 // options.get('accumulate', 1)
    assert next(hook for hook in run.hooks if isinstance(hook, DynamicSparsityHook)).steps == steps
    assert next(tmp_path.glob('*/*.log')).read_text().count('masked weights changed') == (steps - 1) // 2


def test_activation_checkpointing_does_not_change_the_masks(tmp_path):
    runs = [
        runner(
            tmp_path / str(cp), dict(type='DynamicSparsityHook', interval=2), 6, model=dict(type='SmallClassifier', with_cp=cp)
        )
        for cp in (False, True)
    ]
    for run in runs:
        run.train()
    for (name, a), b in zip(masks_of(runs[0]).items(), masks_of(runs[1]).values(), strict=True):
        assert torch.equal(a, b), name


def test_resuming_continues_bit_for_bit(tmp_path):
    """One run is stopped just before a change of the masks, the other between two changes."""
    hook = dict(type='DynamicSparsityHook', interval=2, rate=0.5)
    straight = runner(tmp_path / 'straight', hook, 8, checkpoint=1)
    straight.train()
    for stop in (3, 4):
        resumed = runner(tmp_path / str(stop), hook, 8, load_from=str(tmp_path / f'straight/iter_{stop}.pth'), resume=True)
        resumed.train()
        for (name, a), b in zip(masks_of(straight).items(), masks_of(resumed).values(), strict=True):
            assert torch.equal(a, b), name
        for (name, a), b in zip(straight.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
            assert torch.equal(a, b), name


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='torch has GradScaler for CPUs since 2.3')
def test_a_step_that_amp_skips_does_not_count():
    """GradScaler skips the step if a gradient is not finite."""
    weight = nn.Parameter(torch.ones(4, 4))
    optimizer = torch.optim.AdamW([weight])
    hook = DynamicSparsityHook()
    hook._weights, hook.masks = {'w': weight}, {'w': torch.eye(4, dtype=torch.bool)}
    hook_steps(optimizer, lambda: None, lambda: hook.after_step(optimizer))
    scaler = torch.amp.GradScaler('cpu')
    for gradient in (float('inf'), 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * gradient).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert hook.steps == 1 and torch.equal(weight != 0, hook.masks['w'])


def sparse_start():
    model = MODELS.build(dict(type='SmallClassifier'))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim in (2, 4):
                mask = torch.rand_like(p) < 0.6
                mask[0] = True  # a cell that is zero in all channels would be treated as outside the loaded kernel
                p.mul_(mask)
    return model


def test_fixed_masks_of_the_loaded_weights(tmp_path):
    start = sparse_start()
    torch.save(dict(state_dict=start.state_dict()), tmp_path / 'sparse.pth')
    run = runner(tmp_path, dict(type='FixedSparsityHook'), 5, load_from=str(tmp_path / 'sparse.pth'))
    run.train()
    before, after = dict(start.named_parameters()), dict(run.model.named_parameters())
    assert set(masks_of(run)) == {name for name, p in before.items() if p.ndim in (2, 4) and name.startswith('backbone.')}
    for name, mask in masks_of(run).items():
        assert torch.equal(mask, before[name] != 0) and not after[name][~mask].any()
        assert not torch.equal(after[name], before[name])
    assert after['head.weight'].all()  # the head is dense


def test_fixed_masks_of_dense_weights_do_nothing(tmp_path):
    run = runner(tmp_path, dict(type='FixedSparsityHook'), 2)
    run.train()
    assert masks_of(run) == {}
    assert "FixedSparsityHook: no weight under 'backbone.' is sparse" in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(sparsity=1.0), r'sparsity must be in \[0, 1\), got 1.0'),
        (dict(sparsity=-0.1), 'sparsity must be in'),
        (dict(allocation='lottery'), "allocation must be one of .* got 'lottery'"),
        (dict(interval=0), 'interval must be an integer of at least 1 step, got 0'),
        (dict(rate=1.5), 'rates must satisfy .* got 0.005 and 1.5'),
        (dict(rate=0.001), 'rates must satisfy'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        DynamicSparsityHook(**options)


@pytest.mark.parametrize('hook', [DynamicSparsityHook(), FixedSparsityHook()], ids=lambda hook: type(hook).__name__)
def test_several_optimizers_are_refused(hook):
    model = sparse_start()
    parts = {name: OptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), 0.1)) for name in ('backbone', 'head')}
    with pytest.raises(InputError, match=rf'^{type(hook).__name__} needs a single optimizer, got several \(OptimWrapperDict\)$'):
        hook.before_train(SimpleNamespace(model=model, optim_wrapper=OptimWrapperDict(**parts)))


def test_masks_of_another_model_are_refused():
    model = sparse_start()
    name = 'backbone.stages.0.0.pointwise_conv1.weight'
    good = {name: torch.ones(40, 10, dtype=torch.bool)}
    hook = FixedSparsityHook()
    hook.check(dict(sparsity=dict(masks=good)), model, 'x.pth')
    for checkpoint, message in (
        ({}, "checkpoint x.pth has no 'sparsity' masks: it was trained without FixedSparsityHook"),
        (dict(sparsity=dict(masks={'backbone.a': good[name]})), "x.pth: sparsity mask 'backbone.a' does not belong to a weight"),
        (dict(sparsity=dict(masks={name: good[name][:5]})), rf"x.pth: sparsity mask '{name}' is torch.bool \(5, 10\)"),
        (dict(sparsity=dict(masks={name: good[name].float()})), 'is torch.float32'),
    ):
        with pytest.raises(ValueError, match=message):
            hook.check(checkpoint, model, 'x.pth')
    assert copy.deepcopy(hook).masks == {}
