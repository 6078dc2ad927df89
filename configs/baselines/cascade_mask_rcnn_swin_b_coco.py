# Swin-B, Cascade Mask R-CNN, COCO 3x: 51.9 box AP, 45.0 mask AP in the paper (Table 3).
_base_ = 'cascade_mask_rcnn_swin_t_coco.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.3), neck=dict(in_channels=[128, 256, 512, 1024]))
