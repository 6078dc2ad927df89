# SLaK-B, Cascade Mask R-CNN, COCO 3x: 52.5 box AP, 45.5 mask AP in the paper (Table 3).
_base_ = ['../cascade_mask_rcnn_pelk_b_coco.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
