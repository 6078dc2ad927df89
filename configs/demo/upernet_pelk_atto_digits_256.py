# Digit scenes at twice the resolution, with kernels about twice as large. Start from a checkpoint of upernet_pelk_atto_digits.py with
# --pretrained, which resizes the kernels. This command writes the data:
# python tools/make_digit_scenes.py data/digit_scenes_256 --size 256 --num-training 300 --num-validation 60
_base_ = 'upernet_pelk_atto_digits.py'
data_root = 'data/digit_scenes_256'
train_pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='CheckSegMap', num_classes=12),
    dict(type='RandomResize', scale=(256, 256), ratio_range=(0.9, 1.2), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(256, 256)),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
model = dict(data_preprocessor=dict(size=(256, 256)), backbone=dict(kernel_sizes=(101, 97, 93, 25), center_size=7))
max_iters = 150
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=20),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=20, end=max_iters),
]
default_hooks = dict(checkpoint=dict(interval=max_iters))
