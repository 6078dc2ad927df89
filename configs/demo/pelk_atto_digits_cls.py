# Sparse PeLK atto on digits. It runs the code path of the ImageNet configs in minutes on a laptop CPU.
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/datasets/digits_cls.py',
    '../_base_/mmpretrain_runtime.py',
]
max_epochs = 10
total_batch_size = 64
model = dict(
    data_preprocessor=dict(num_classes=10),
    backbone=dict(arch='atto', drop_path_rate=0.0, layer_scale_init_value=1.0),
    head=dict(num_classes=10, in_channels=416),
    train_cfg=None,
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=3e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=1, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=2)
val_cfg = dict()
test_cfg = dict()
custom_hooks = [
    dict(type='EMAHook', momentum=0.02, update_buffers=True, priority='ABOVE_NORMAL'),
    dict(type='DynamicSparsityHook', sparsity=0.4, interval=40, rate=0.3),
]
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2), logger=dict(interval=20))
randomness = dict(seed=0)
