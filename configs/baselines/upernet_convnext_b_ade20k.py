# ConvNeXt-B, UperNet, ADE20K: 49.1 mIoU in the paper (Table 2).
_base_ = '../upernet_pelk_b_ade20k.py'
channels = [128, 256, 512, 1024]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.ConvNeXt',
        arch='base',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        gap_before_final_norm=False,
    ),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
