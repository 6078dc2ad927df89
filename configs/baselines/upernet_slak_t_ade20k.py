# SLaK-T, UperNet, ADE20K: 47.6 mIoU in the paper (Table 2).
_base_ = ['../upernet_pelk_t_ade20k.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
