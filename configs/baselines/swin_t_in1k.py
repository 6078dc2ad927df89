# Swin-T, ImageNet-1K at 224 px: 81.3 top-1 in the paper (Table 4).
_base_ = '../pelk_t_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='SwinTransformer', arch='tiny', img_size=224, drop_path_rate=0.2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=768),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
