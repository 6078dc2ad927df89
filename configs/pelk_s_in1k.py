# PeLK-S, ImageNet-1K at 224 px, 300 epochs: 83.9 top-1 in the paper (Table 4).
_base_ = 'pelk_t_in1k.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
custom_hooks = [
    dict(type='EMAHook', momentum=1e-4, priority='ABOVE_NORMAL'),
    dict(type='DynamicSparsityHook', sparsity=0.4, interval=100, rate=0.3),
]
