# ConvNeXt's COCO schedule, which the paper uses too: 36 epochs at a batch of 16, such as 8 GPUs with 2 images each. The warm-up is
# twice as long, as in mmdet's ConvNeXt config.
# tools/train.py accumulates gradients over several iterations if the GPUs and their batch_size do not reach the total. Counts of
# iterations are then multiplied accordingly.
total_batch_size = 16
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=36, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
# Keep the zeros of a sparse checkpoint at zero. Without a sparse checkpoint, this hook changes nothing.
custom_hooks = [dict(type='FixedSparsityHook')]
