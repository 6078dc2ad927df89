# SLaK-T, ImageNet-1K at 224 px: throughput of Table 8.
_base_ = '../pelk_t_in1k.py'
model = dict(backbone=dict(kernel_form='stripe', conv_ratio=1.0, pos_embed=None))
