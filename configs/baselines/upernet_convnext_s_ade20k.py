# ConvNeXt-S, UperNet, ADE20K: 48.7 mIoU in the paper (Table 2).
_base_ = 'upernet_convnext_t_ade20k.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
optim_wrapper = dict(paramwise_cfg=dict(num_layers=12))
