# ConvNeXt-S, Cascade Mask R-CNN, COCO 3x: 51.9 box AP, 45.0 mask AP in the paper (Table 3).
_base_ = 'cascade_mask_rcnn_convnext_t_coco.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.6))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
