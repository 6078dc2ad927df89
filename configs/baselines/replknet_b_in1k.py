# RepLKNet-B, ImageNet-1K at 224 px: 83.5 top-1 in the paper (Table 4).
_base_ = '../pelk_b_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='RepLKNet', arch='31B', drop_path_rate=0.5),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=1024),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
