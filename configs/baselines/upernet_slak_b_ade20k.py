# SLaK-B, UperNet, ADE20K: 50.2 mIoU in the paper (Table 2).
_base_ = ['../upernet_pelk_b_ade20k.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
