# RepLKNet-B, UperNet, ADE20K: 49.9 mIoU in the paper (Table 2).
_base_ = '../upernet_pelk_b_ade20k.py'
channels = [128, 256, 512, 1024]
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.RepLKNet',
        arch='31B',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.5,
    ),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
# The layer-decay constructor does not support RepLKNet.
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0),
)
