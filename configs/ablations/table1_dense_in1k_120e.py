# RepLK-51: dense kernels, without sparsity, 120 epochs: 81.6 top-1 in the paper (Table 1). As in SLaK, only sparse
# models are 1.3 times as wide.
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/kernel_forms.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/in1k_120e.py',
    '../_base_/hooks/ema.py',
    '../_base_/mmpretrain_runtime.py',
]
model = dict(backbone=dict(_base_.dense_kernels, width_factor=1.0), head=dict(in_channels=768))
