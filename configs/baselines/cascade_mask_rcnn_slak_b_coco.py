# SLaK-B, Cascade Mask R-CNN, COCO 3x: 52.5 box AP, 45.5 mask AP in the paper (Table 3).
_base_ = '../cascade_mask_rcnn_pelk_b_coco.py'
model = dict(backbone=dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None))
