# SLaK-51: stripe kernels, with sparsity, 120 epochs: 81.6 top-1 in the paper (Table 1).
_base_ = ['../pelk_t_in1k_120e.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
