# ConvNeXt-B, ImageNet-1K at 224 px: 83.8 top-1 in the paper (Table 4).
_base_ = '../pelk_b_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='ConvNeXt', arch='base', drop_path_rate=0.5),
    head=dict(in_channels=1024),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
