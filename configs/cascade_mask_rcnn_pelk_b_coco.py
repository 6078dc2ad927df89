# PeLK-B, Cascade Mask R-CNN, COCO 3x: 52.9 box AP, 45.9 mask AP in the paper (Table 3).
_base_ = 'cascade_mask_rcnn_pelk_s_coco.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.7), neck=dict(in_channels=[166, 332, 665, 1331]))
optim_wrapper = dict(paramwise_cfg=dict(decay_rate=0.8))
