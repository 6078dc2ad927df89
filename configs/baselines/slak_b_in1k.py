# SLaK-B, ImageNet-1K at 224 px: 84.0 top-1 in the paper (Table 4).
_base_ = '../pelk_b_in1k.py'
model = dict(backbone=dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None))
