# PeLK-B, UperNet, ADE20K: 50.4 mIoU in the paper (Table 2).
_base_ = 'upernet_pelk_s_ade20k.py'
channels = [166, 332, 665, 1331]
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.4),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
