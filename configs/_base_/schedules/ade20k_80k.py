# The ADE20K schedule of the paper's ablations: 80k iterations.
_base_ = 'ade20k_160k.py'
max_iters = 80000
param_scheduler = [_base_.warm_up, dict(_base_.poly, end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=8000)
