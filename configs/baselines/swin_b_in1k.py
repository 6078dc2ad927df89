# Swin-B, ImageNet-1K at 224 px: 83.5 top-1 in the paper (Table 4).
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/in1k_300e.py',
    '../_base_/hooks/ema.py',
    '../_base_/mmpretrain_runtime.py',
]
model = dict(
    backbone=dict(_delete_=True, type='SwinTransformer', arch='base', img_size=224, drop_path_rate=0.5),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=1024),
)
train_dataloader = dict(batch_size=64)
# As in Swin: gradients are clipped, and the position biases do not decay.
optim_wrapper = dict(
    clip_grad=dict(max_norm=5.0), paramwise_cfg=dict(custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)})
)
