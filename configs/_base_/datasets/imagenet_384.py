# ImageNet-1K at 384 px.
_base_ = 'imagenet_224.py'
train_pipeline = _base_.train_pipeline
train_pipeline[1].scale = 384
test_pipeline = [
    _base_.load_image,
    # As in ConvNeXt, images of this size are not cropped.
    dict(type='Resize', scale=(384, 384), backend='pillow', interpolation='bicubic'),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
