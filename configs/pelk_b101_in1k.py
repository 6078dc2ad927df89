# PeLK-B-101, ImageNet-1K at 224 px, 300 epochs: the pre-training of the B-101 models in Tables 2 to 4. The paper prints no result.
_base_ = 'pelk_b_in1k.py'
model = dict(backbone=dict(kernel_sizes=(101, 69, 67, 13), center_size=7))
