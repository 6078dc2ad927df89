# DINOv3's ConvNeXt-T grown to 101x101, UperNet, ADE20K.
_base_ = 'upernet_dinov3_convnext_t_51_ade20k.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13)))
