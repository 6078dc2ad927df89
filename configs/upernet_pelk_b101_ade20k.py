# PeLK-B-101, UperNet, ADE20K: 50.6 mIoU in the paper (Table 2).
_base_ = 'upernet_pelk_b_ade20k.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
