# Swin-B, fine-tuned from 224 to 384 px for 30 epochs, with windows of 12: 84.5 top-1 in the paper (Table 4). Start from swin_b_in1k.py.
# The recipe is Swin's own: it keeps mixup and CutMix, and has no layer-wise learning rates. Swin gives its learning rates for 512 images.
# To resize the position biases of the checkpoint, mmpretrain needs SciPy older than 1.14 (scipy.interpolate.interp2d).
_base_ = '../pelk_b_in1k_384_finetune.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='base',
        img_size=384,
        drop_path_rate=0.5,
        stage_cfgs=dict(block_cfgs=dict(window_size=12)),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=1024),
    train_cfg=dict(_delete_=True, augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]),
)
total_batch_size = 1024
optim_wrapper = dict(
    optimizer=dict(lr=4e-5),
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)},
    ),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=4e-7, by_epoch=True, begin=5, end=30, convert_to_iter_based=True),
]
