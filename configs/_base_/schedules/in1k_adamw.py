# ConvNeXt's optimizer for ImageNet, which SLaK and the paper use too: AdamW with a total batch size of 4096. As in ConvNeXt and SLaK,
# training is in float32; --amp enables mixed precision. tools/train.py accumulates gradients over several iterations if the GPUs and
# their batch_size do not reach the total.
total_batch_size = 4096
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
warm_up = dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True)
cosine = dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=20, convert_to_iter_based=True)
val_cfg = dict()
test_cfg = dict()
