# Swin-B, UperNet, ADE20K: 48.1 mIoU in the paper (Table 2).
_base_ = 'upernet_swin_t_ade20k.py'
channels = [128, 256, 512, 1024]
model = dict(
    backbone=dict(arch='base'),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
