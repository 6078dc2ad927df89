# RepLKNet-B, Cascade Mask R-CNN, COCO 3x: 52.2 box AP, 45.2 mask AP in the paper (Table 3).
_base_ = '../cascade_mask_rcnn_pelk_b_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.RepLKNet',
        arch='31B',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.6,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
# The layer-decay constructor does not support RepLKNet.
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
