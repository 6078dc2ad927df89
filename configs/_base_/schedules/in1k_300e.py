# ConvNeXt's ImageNet schedule, which SLaK and the paper use too: 300 epochs.
_base_ = 'in1k_adamw.py'
max_epochs = 300
param_scheduler = [_base_.warm_up, dict(_base_.cosine, end=max_epochs)]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
