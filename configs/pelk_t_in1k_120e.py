# PeLK-T, ImageNet-1K at 224 px, with the 120 epochs of the paper's ablations instead of 300.
_base_ = [
    '_base_/models/pelk_cls.py',
    '_base_/datasets/imagenet_224.py',
    '_base_/schedules/in1k_120e.py',
    '_base_/hooks/sparsity_t.py',
    '_base_/mmpretrain_runtime.py',
]
