# PeLK atto with UperNet on digit scenes. It runs the code path of the ADE20K configs in minutes on a laptop CPU.
_base_ = [
    '../_base_/models/upernet_pelk.py',
    '../_base_/datasets/digit_scenes_seg.py',
    '../_base_/mmseg_runtime.py',
]
custom_imports = dict(imports=['mmpelk', 'mmpelk.datasets.digit_scenes_dataset'])
channels = [52, 104, 208, 416]
norm_cfg = dict(type='BN', requires_grad=True)
# mmseg initializes its classifiers with std 0.01. With that, the model would predict only the backgrounds after so few iterations.
classifier_init = dict(type='Normal', std=0.1, override=dict(name='conv_seg'))
model = dict(
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(arch='atto', drop_path_rate=0.0),
    decode_head=dict(in_channels=channels, channels=64, num_classes=12, norm_cfg=norm_cfg, init_cfg=classifier_init),
    auxiliary_head=dict(in_channels=channels[2], channels=64, num_classes=12, norm_cfg=norm_cfg, init_cfg=classifier_init),
    test_cfg=dict(_delete_=True, mode='whole'),
)
max_iters = 900
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=100, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=300)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=8)
default_hooks = dict(checkpoint=dict(interval=300, max_keep_ckpts=2))
custom_hooks = [dict(type='FixedSparsityHook')]
randomness = dict(seed=0)
visualizer = dict(alpha=0.6)
