# A small PeLK with 51-49-47-13 kernels on keyed rows. SegFormer's head has only 1x1 convolutions and no global pooling, so only the
# backbone's kernels enlarge the receptive field. `make demo-reach` compares the model with one that has 7x7 kernels.
_base_ = ['../_base_/datasets/keyed_rows.py', '../_base_/mmseg_runtime.py']
custom_imports = dict(imports=['mmpelk', 'mmpelk.datasets.keyed_rows_dataset', 'mmpelk.datasets.keyed_rows_metric'])
channels = [32, 48, 64, 96]
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(128, 128),
    ),
    backbone=dict(
        type='PeLK',
        arch=dict(depths=(2, 2, 2, 1), channels=channels),
        width_factor=1.0,
        pos_embed=None,
        layer_scale_init_value=1.0,
    ),
    decode_head=dict(
        type='SegformerHead',
        in_channels=channels,
        in_index=[0, 1, 2, 3],
        channels=64,
        dropout_ratio=0.0,
        num_classes=4,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        # Most pixels are not labeled. The loss is averaged over the labeled ones.
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0, avg_non_ignore=True),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
max_iters = 120
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, betas=(0.9, 0.999), weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=20, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=max_iters))
randomness = dict(seed=0)
