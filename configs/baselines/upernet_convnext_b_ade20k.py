# ConvNeXt-B, UperNet, ADE20K: 49.1 mIoU in the paper (Table 2).
_base_ = 'upernet_convnext_t_ade20k.py'
channels = [128, 256, 512, 1024]
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.4),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]),
)
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
