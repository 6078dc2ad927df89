# PeLK-T at 384 px, 120 epochs: 82.7 top-1 in the paper (Table 7).
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/datasets/imagenet_384.py',
    '../_base_/schedules/in1k_120e.py',
    '../_base_/hooks/sparsity_t.py',
    '../_base_/mmpretrain_runtime.py',
]
