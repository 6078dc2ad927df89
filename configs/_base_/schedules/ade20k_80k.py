# The ADE20K schedule of Table 1: 80k iterations. The paper does not specify it; this is SLaK's schedule of the same length. It differs
# from the schedule of 160k iterations: one higher learning rate for all layers, a shorter warm-up, weight decay on all weights except
# those of norms, and float32.
_base_ = 'ade20k_160k.py'
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
max_iters = 80000
param_scheduler = [dict(_base_.warm_up, end=800), dict(_base_.poly, begin=800, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=8000)
