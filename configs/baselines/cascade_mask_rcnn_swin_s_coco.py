# Swin-S, Cascade Mask R-CNN, COCO 3x: 51.8 box AP, 44.7 mask AP in the paper (Table 3).
_base_ = 'cascade_mask_rcnn_swin_t_coco.py'
model = dict(backbone=dict(arch='small'))
