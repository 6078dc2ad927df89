# ConvNeXt-B, Cascade Mask R-CNN, COCO 3x: 52.7 box AP, 45.6 mask AP in the paper (Table 3).
_base_ = '../cascade_mask_rcnn_pelk_b_coco.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='base',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.7,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
