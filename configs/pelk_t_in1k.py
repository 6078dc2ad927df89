# PeLK-T, ImageNet-1K at 224 px, 300 epochs: 82.6 top-1 in the paper (Table 4).
_base_ = [
    '_base_/models/pelk_cls.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/in1k_300e.py',
    '_base_/hooks/sparsity_t.py',
    '_base_/mmpretrain_runtime.py',
]
