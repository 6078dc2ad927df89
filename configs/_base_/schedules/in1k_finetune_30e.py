# ConvNeXt's fine-tuning of a classifier from 224 to 384 px: 30 epochs at a total batch size of 512, with layer-wise learning rate decay,
# and without warm-up. The paper does not say how its models at 384 px are trained.
fine_tuning = True  # tools/train.py then requires --pretrained
total_batch_size = 512
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=5e-5, betas=(0.9, 0.999), weight_decay=1e-8),
    constructor='LearningRateDecayOptimWrapperConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
max_epochs = 30
# As in ConvNeXt, the minimum of 1e-6 is scaled for each layer like its learning rate. An absolute eta_min would not be scaled.
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min_ratio=1e-6 / 5e-5, by_epoch=True, end=max_epochs, convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=1)
val_cfg = dict()
test_cfg = dict()
# Keep the zeros of a sparse checkpoint at zero. Without a sparse checkpoint, this hook changes nothing.
custom_hooks = [dict(type='FixedSparsityHook', prefix='')]
