# ConvNeXt's ADE20K schedule, which SLaK and the paper use too: 160k iterations at a batch of 16, such as 8 GPUs with 2 images each.
# tools/train.py accumulates gradients over several iterations if the GPUs and their batch_size do not reach the total. Counts of
# iterations are then multiplied accordingly.
total_batch_size = 16
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LearningRateDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6),
)
warm_up = dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500)
poly = dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500)
max_iters = 160000
param_scheduler = [warm_up, dict(poly, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(enable=False, base_batch_size=16)
# Keep the zeros of a sparse checkpoint at zero. Without a sparse checkpoint, this hook changes nothing.
custom_hooks = [dict(type='FixedSparsityHook')]
