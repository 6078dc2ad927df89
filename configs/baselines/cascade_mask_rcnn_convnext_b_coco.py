# ConvNeXt-B, Cascade Mask R-CNN, COCO 3x: 52.7 box AP, 45.6 mask AP in the paper (Table 3).
_base_ = 'cascade_mask_rcnn_convnext_t_coco.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.7), neck=dict(in_channels=[128, 256, 512, 1024]))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12, decay_rate=0.8))
