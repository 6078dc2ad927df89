# Swin-S, ImageNet-1K at 224 px: 83.0 top-1 in the paper (Table 4).
_base_ = '../pelk_s_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='SwinTransformer', arch='small', img_size=224, drop_path_rate=0.3),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=768),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
