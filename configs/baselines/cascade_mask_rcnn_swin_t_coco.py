# Swin-T, Cascade Mask R-CNN, COCO 3x: 50.5 box AP, 43.7 mask AP in the paper (Table 3).
_base_ = '../cascade_mask_rcnn_pelk_t_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.SwinTransformer',
        arch='tiny',
        img_size=224,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        pad_small_map=True,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
# The layer-decay constructor does not support Swin.
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.0)},
    ),
)
