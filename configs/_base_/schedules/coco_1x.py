# The 1x schedule: 12 epochs. Two bases of one config cannot set the same keys, so a config derives from its 3x config and this file,
# and assigns these values.
train_cfg_1x = dict(max_epochs=12)
param_scheduler_1x = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
