# SLaK-S, UperNet, ADE20K: 49.4 mIoU in the paper (Table 2).
_base_ = '../upernet_pelk_s_ade20k.py'
model = dict(backbone=dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None))
