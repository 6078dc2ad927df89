# PeLK-B-101 as an ImageNet classifier.
_base_ = 'pelk_b_cls.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
