# ConvNeXt-T, Cascade Mask R-CNN, COCO 3x: 50.4 box AP, 43.7 mask AP in the paper (Table 3).
_base_ = '../cascade_mask_rcnn_pelk_t_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
