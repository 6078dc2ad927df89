# Keyed rows for semantic segmentation. `python tools/make_keyed_rows.py` writes the data. Only the glyphs are labeled.
data_root = 'data/keyed_rows'
num_classes = 4
pipeline = [
    dict(type='LoadImageFromFile', imdecode_backend='pillow'),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='CheckSegMap', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='KeyedRowsDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
        pipeline=pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='KeyedRowsDataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'),
        pipeline=pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='AccuracyOverDistance'), dict(type='IoUMetric', iou_metrics=['mIoU'])]
test_evaluator = val_evaluator
