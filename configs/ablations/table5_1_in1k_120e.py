# 33x33 kernels, sharing grid #1, no h, no sparsity, 120 epochs: 81.4 top-1 in the paper (Table 5). The last stage keeps its 13x13 kernel.
_base_ = [
    '../_base_/models/pelk_cls.py',
    '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/in1k_120e.py',
    '../_base_/hooks/ema.py',
    '../_base_/mmpretrain_runtime.py',
]
grid = [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
# As in SLaK, only sparse models are 1.3 times as wide.
model = dict(
    backbone=dict(sharing_grids=[grid, grid, grid, [2, 2, 1, 1, 1]], pos_embed=None, width_factor=1.0),
    head=dict(in_channels=768),
)
