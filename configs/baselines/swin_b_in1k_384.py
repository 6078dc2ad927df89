# Swin-B, ImageNet-1K at 384 px with windows of 12: 84.5 top-1 in the paper (Table 4).
_base_ = '../pelk_b_in1k_384.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinTransformer',
        arch='base',
        img_size=384,
        drop_path_rate=0.5,
        stage_cfgs=dict(block_cfgs=dict(window_size=12)),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(in_channels=1024),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
