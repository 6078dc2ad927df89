# Swin-S, UperNet, ADE20K: 47.6 mIoU in the paper (Table 2).
_base_ = 'upernet_swin_t_ade20k.py'
model = dict(backbone=dict(arch='small'))
