# PeLK-B-101, Cascade Mask R-CNN, COCO 3x: 53.1 box AP, 46.1 mask AP in the paper (Table 3).
_base_ = 'cascade_mask_rcnn_pelk_b_coco.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
