# ConvNeXt V2-B grown to 101x101, UperNet, ADE20K.
_base_ = 'upernet_convnextv2_b_51_ade20k.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13)))
