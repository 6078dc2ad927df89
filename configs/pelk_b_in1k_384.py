# PeLK-B, ImageNet-1K at 384 px, 300 epochs: 85.6 top-1 in the paper (Table 4), which does not tell whether it trains at this size from
# scratch, as here, or fine-tunes: --pretrained starts from a checkpoint of 224 px.
_base_ = [
    '_base_/models/pelk_cls.py',
    '_base_/datasets/imagenet_384.py',
    '_base_/schedules/in1k_300e.py',
    '_base_/mmpretrain_runtime.py',
]
model = dict(backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1331))
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
    dict(type='DynamicSparsityHook', sparsity=0.4, interval=100, rate=0.3),
]
