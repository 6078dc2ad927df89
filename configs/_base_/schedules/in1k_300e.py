# The paper's ImageNet schedule, AdamW at batch 4096 for 300 epochs, with PeLK-T's dynamic sparsity.
max_epochs = 300
# tools/train.py accumulates gradients over as many iterations as this batch needs here, with what it has of GPUs and batch_size.
total_batch_size = 4096
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
ema = dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')
custom_hooks = [ema, dict(type='DynamicSparsityHook', sparsity=0.4, interval=2000, rate=0.5)]
