# SLaK-B, ImageNet-1K at 224 px: 84.0 top-1 in the paper (Table 4).
_base_ = ['../pelk_b_in1k.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
