# PeLK-T at 384 px, 120 epochs: 82.7 top-1 in the paper (Table 7).
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/mmpretrain_runtime.py',
]
train_cfg = dict(max_epochs=120)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=120, convert_to_iter_based=True),
]
