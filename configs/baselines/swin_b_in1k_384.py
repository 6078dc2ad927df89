# Swin-B, ImageNet-1K at 384 px with windows of 12: 84.5 top-1 in the paper (Table 4).
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/hooks/ema.py',
    '../_base_/mmpretrain_runtime.py',
]
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
)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))  # as in Swin
