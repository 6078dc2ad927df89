# PeLK-B-101, ImageNet-1K at 384 px, 300 epochs: 85.8 top-1 in the paper (Table 4).
_base_ = 'pelk_b_in1k_384.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
