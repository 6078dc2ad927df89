# Swin-S, ImageNet-1K at 224 px: 83.0 top-1 in the paper (Table 4).
_base_ = 'swin_t_in1k.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.3))
