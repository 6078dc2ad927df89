# ConvNeXt-S grown to 101x101, Cascade Mask R-CNN, COCO.
_base_ = 'cascade_mask_rcnn_convnext_s_51_coco.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13)))
