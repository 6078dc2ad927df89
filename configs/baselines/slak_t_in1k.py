# SLaK-T, ImageNet-1K at 224 px. Its throughput is in Table 8 of the paper.
_base_ = ['../pelk_t_in1k.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
