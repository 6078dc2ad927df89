# ConvNeXt-S, Cascade Mask R-CNN, COCO 3x: 51.9 box AP, 45.0 mask AP in the paper (Table 3).
_base_ = '../cascade_mask_rcnn_pelk_s_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='small',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.6,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
