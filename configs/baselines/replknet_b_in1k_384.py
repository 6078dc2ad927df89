# RepLKNet-B, fine-tuned from 224 to 384 px for 30 epochs: 84.8 top-1 in the paper (Table 4). Start from replknet_b_in1k.py.
# The batch size, learning rate, warm-up, and EMA are RepLKNet's.
_base_ = '../pelk_b_in1k_384_finetune.py'
model = dict(
    backbone=dict(_delete_=True, type='RepLKNet', arch='31B', drop_path_rate=0.8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=1024),
)
total_batch_size = 1024
# mmpretrain's constructor for layer-wise learning rate decay does not support RepLKNet. These are RepLKNet's 14 layers.
depths = {
    'stem.': 0,
    'stages.0.': 1,
    'transitions.0.': 1,
    'stages.1.': 2,
    'transitions.1.': 2,
    **{f'stages.2.blocks.{block}.': 3 + block // 4 for block in range(36)},
    'transitions.2.': 11,
    'stages.3.': 12,
}
optim_wrapper = dict(
    optimizer=dict(lr=4e-4),
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True, custom_keys={f'backbone.{name}': dict(lr_mult=0.7 ** (13 - depth)) for name, depth in depths.items()}
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / 4e-4, by_epoch=True, begin=1, end=30, convert_to_iter_based=True),
]
custom_hooks = [dict(type='EMAHook', momentum=1e-4, update_buffers=True, priority='ABOVE_NORMAL')]
