# 120 epochs instead of 300, as the paper's ablations.
_base_ = 'pelk_b101_in1k_384.py'
max_epochs = 120
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=max_epochs, convert_to_iter_based=True),
]
