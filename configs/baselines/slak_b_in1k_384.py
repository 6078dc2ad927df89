# SLaK-B, fine-tuned from 224 to 384 px for 30 epochs: 85.5 top-1 in the paper (Table 4). Start from slak_b_in1k.py.
_base_ = ['../pelk_b_in1k_384_finetune.py', '../_base_/kernel_forms.py']
model = dict(backbone=_base_.stripe_kernels)
