# PeLK-S, ImageNet-1K at 224 px, 300 epochs: 83.9 top-1 in the paper (Table 4).
_base_ = [
    '_base_/models/pelk_s_cls.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/in1k_300e.py',
    '_base_/hooks/sparsity_s_b.py',
    '_base_/mmpretrain_runtime.py',
]
