# ConvNeXt-T, ImageNet-1K at 224 px: 82.1 top-1 in the paper (Table 4).
_base_ = '../pelk_t_in1k.py'
model = dict(
    backbone=dict(_delete_=True, type='ConvNeXt', arch='tiny', drop_path_rate=0.1),
    head=dict(in_channels=768),
)
custom_hooks = [dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL')]
