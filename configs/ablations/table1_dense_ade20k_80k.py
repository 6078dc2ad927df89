# RepLK-51 in UperNet, 80k iterations: 46.9 mIoU in the paper with sparsity, 46.6 without (Table 1). The checkpoint decides which.
_base_ = '../upernet_pelk_t_ade20k.py'
model = dict(backbone=dict(kernel_form='dense', conv_ratio=1.0, pos_embed=None))
train_cfg = dict(max_iters=80000, val_interval=8000)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=80000),
]
