# PeLK-B-101, fine-tuned from 224 to 384 px for 30 epochs: 85.8 top-1 in the paper (Table 4). The paper does not say whether this
# model is fine-tuned, as here, or trains from scratch (pelk_b101_in1k_384.py). Start from pelk_b101_in1k.py.
_base_ = 'pelk_b_in1k_384_finetune.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
